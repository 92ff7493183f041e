// What the threads of one block share, and what they do with one tile of samples on the way forwards, and backwards for the
// adjoints of the inputs.

// The memory of one block: the threads' losses, the samples of one layer in the order of their cells, the cells and the
// jets of the tile (in global memory where they do not fit), a copy of the coefficients (where it fits), and the sums of
// gradients (likewise). `gpu_launch.py` computes the sizes. What is in shared memory is known to the compiler, because
// access to memory of which it does not know where it is takes longer, and addresses of twice the length.
template <typename T, int DEGREE, int D> struct Block {
    const Call<T> &call;
    double *losses;
    T *jets, *gradient, *own_theta;
    const T *theta;
    int *keys;
    unsigned char *order;
    int num_layers;

    DEVICE Block(const Call<T> &call, bool wants_gradient) : call(call), num_layers(static_cast<int>(call.num_layers)) {
        losses = shared_memory();
        order = reinterpret_cast<unsigned char *>(losses + num_threads());
        unsigned char *free = order + (wants_gradient ? call.order_bytes : 0);
        keys = reinterpret_cast<int *>(JETS_ARE_SHARED ? free : scratch());
        jets = reinterpret_cast<T *>(keys + call.entries * KEY_STRIDE);
        if (JETS_ARE_SHARED) free = reinterpret_cast<unsigned char *>(jets + call.entries * (NUMBERS<D> * STRIDE));
        own_theta = reinterpret_cast<T *>(free);
        theta = THETA_IS_SHARED ? own_theta : call.theta;
        T *after_theta = own_theta + (THETA_IS_SHARED ? call.num_coefficients : 0);
        gradient = SUMS_ARE_SHARED ? after_theta : call.partials + block_number() * call.num_coefficients;
    }

    // The block's part of global memory.
    DEVICE unsigned char *scratch() const {
        return reinterpret_cast<unsigned char *>(call.scratch + block_number() * call.scratch_size);
    }

    DEVICE Sample<T, D> sample(int n) const { return Sample<T, D>(call, jets, keys, n); }
    DEVICE long long num_tiles() const { return (call.samples + TILE - 1) / TILE; }

    // Samples of the tile that begins with sample `first`.
    DEVICE int size(long long first) const {
        return call.samples - first < TILE ? static_cast<int>(call.samples - first) : TILE;
    }

    // Coefficients lie in the kernels' order where they are in global memory, but in the user's where they are copied.
    DEVICE void copy_theta() const {
        if (THETA_IS_SHARED) {
            EACH_THREAD(t) {
                for (int i = t; i < call.num_coefficients; i += num_threads()) {
                    const int own = call.order[i];
                    own_theta[i] = own < 0 ? T(0) : call.theta[own];
                }
            }
        }
    }
};

// Add the threads' losses, always in the same order. The number of threads is a power of two.
template <typename B> DEVICE void add_losses(const B &block) {
    for (int half = num_threads() / 2; half > 0; half /= 2) {
        EACH_THREAD(t) {
            if (t < half) block.losses[t] += block.losses[t + half];
        }
    }
    EACH_THREAD(t) {
        if (t == 0) block.call.losses[block_number()] = block.losses[0];
    }
}

// The parts of a layer on the way forwards: groups of outputs, of equal size but for the last one, times samples.
template <int D> struct Groups {
    int outputs, number, size;

    DEVICE explicit Groups(const Layer &layer)
        : outputs(layer.outputs), number(num_groups<D>(outputs)), size((outputs + number - 1) / number) {}

    DEVICE int parts() const { return number * TILE; }
    DEVICE int first(int part) const { return part / TILE * size; }
    DEVICE int count(int part) const { return outputs - first(part) < size ? outputs - first(part) : size; }
};

// Compute the jets of all layers at the samples of a tile.
template <typename T, int DEGREE, int D>
DEVICE void forward_tile(const Block<T, DEGREE, D> &block, long long first, int num_samples) {
    EACH_THREAD(t) {
        const Layer layer = layer_of(block.call, 0);
        ROLLED for (int i = t; i < layer.inputs * TILE; i += num_threads()) {
            const int n = i % TILE;
            if (n < num_samples) begin(block.sample(n), layer, first + n, i / TILE);
        }
        if (num_samples < TILE) {
            // Samples that are not there come last in the order of cells.
            for (int i = t; i < block.call.entries * TILE; i += num_threads())
                if (i % TILE >= num_samples) block.keys[i / TILE * KEY_STRIDE + i % TILE] = LAST_KEY;
        }
    }
    for (int number = 0; number < block.num_layers; ++number) {
        EACH_THREAD(t) {
            const Layer layer = layer_of(block.call, number);
            const Groups<D> groups(layer);
            ROLLED for (int i = t; i < groups.parts(); i += num_threads()) {
                const int n = i % TILE;
                if (n >= num_samples) continue;
                forward<T, DEGREE, D>(block.sample(n), layer, block.theta, groups.first(i), groups.count(i));
                settle(block.sample(n), number + 1, groups.first(i), groups.count(i));
            }
        }
    }
}

// Replace the jets of a layer's inputs by their adjoints.
template <typename T, int DEGREE, int D>
DEVICE void pull_tile(const Block<T, DEGREE, D> &block, const Layer &layer, int t, int num_samples) {
    ROLLED for (int i = t; i < layer.inputs * TILE; i += num_threads()) {
        const int n = i % TILE;
        if (n < num_samples) pull<T, DEGREE, D>(block.sample(n), layer, block.theta, i / TILE);
    }
}
