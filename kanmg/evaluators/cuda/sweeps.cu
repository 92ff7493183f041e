// The kernels. A block takes tiles of as many samples as it has threads, one after the other; every thread takes one
// sample through the whole network.
//
// The gradient is the same on every run: each edge (p, q) of a layer belongs to one thread of the block, which goes
// through the samples of the tile in their order and adds to a sum of its own; a second kernel adds the blocks' sums
// in their order. Or, with `call.atomic`, threads add the parts of their samples as they come.

// The memory of one block: the threads' losses, the jets of the tile (in global memory where they do not fit), basis
// functions of a part of the tile with their cells, and the sum of gradients (likewise). `gpu_launch.py` computes the sizes.
template <typename T, int DEGREE, int ORDER> struct Block {
    // Functions and derivatives that the gradient of the coefficients takes.
    static constexpr int LEVELS = ORDER == 0 ? 1 : 3;
    const Call<T> &call;
    double *losses;
    T *jets, *functions, *gradient;
    int *cells;
    int stride;

    DEVICE Block(const Call<T> &call) : call(call), stride(num_threads() + 1) {
        losses = shared_memory();
        T *free = reinterpret_cast<T *>(losses + num_threads());
        const long long entries = call.entries * stride;
        jets = call.scratch ? call.scratch + block_number() * entries : free;
        if (!call.scratch) free += entries;
        functions = free;
        free += call.staged * LEVELS * (DEGREE + 1);
        gradient = call.gradient_is_shared ? free : call.partials + block_number() * call.num_coefficients;
        if (call.gradient_is_shared) free += call.num_coefficients;
        cells = reinterpret_cast<int *>(free);
    }

    DEVICE Sample<T> sample(int t) const { return Sample<T>(call, jets + t, stride); }
    DEVICE long long num_tiles() const { return (call.samples + num_threads() - 1) / num_threads(); }

    DEVICE int tile_size(long long tile) const {
        const long long rest = call.samples - tile * num_threads();
        return rest < num_threads() ? static_cast<int>(rest) : num_threads();
    }
};

// Add the threads' losses, always in the same order. The number of threads is a power of two.
template <typename B> PART void add_losses(const B &block) {
    for (int half = num_threads() / 2; half > 0; half /= 2) {
        EACH_THREAD(t) {
            if (t < half) block.losses[t] += block.losses[t + half];
        }
    }
    EACH_THREAD(t) {
        if (t == 0) block.call.losses[block_number()] = block.losses[0];
    }
}

// Evaluate the basis functions of inputs p0, ..., p0 + num_inputs - 1 at samples n0, ..., n0 + num_samples - 1 of a tile.
template <typename T, int DEGREE, int ORDER>
PART void stage(
    const Block<T, DEGREE, ORDER> &block, int number, int t, int p0, int num_inputs, int n0, int num_samples) {
    const Call<T> &call = block.call;
    for (int i = t; i < num_inputs * num_samples; i += num_threads()) {
        const int p = p0 + i % num_inputs, n = n0 + i / num_inputs;
        const Sample<T> sample = block.sample(n);
        const Layer layer = sample.layer(number);
        const Place<T> place = locate<T, DEGREE>(sample.inputs(number)(0, p), layer, p, call.tables, call.status);
        const Functions<T, DEGREE, ORDER == 0 ? 2 : 3> functions(place, layer[OUTSIDE]);
        block.cells[i] = place.cell;
        UNROLL for (int level = 0; level < Block<T, DEGREE, ORDER>::LEVELS; ++level)
            UNROLL for (int s = 0; s <= DEGREE; ++s)
                block.functions[(level * (DEGREE + 1) + s) * call.staged + i] = functions.at[level][s];
    }
}

// Add what the staged samples give to the gradient of the edges from the staged inputs.
template <typename T, int DEGREE, int ORDER>
PART void add_staged(
    const Block<T, DEGREE, ORDER> &block, int number, int t, int p0, int num_inputs, int n0, int num_samples) {
    const int staged = static_cast<int>(block.call.staged), count = DEGREE + 1;
    const Size size = block.sample(0).size;
    const Layer layer = block.sample(0).layer(number);
    const int num_outputs = layer[OUTPUTS];
    for (int e = t; e < num_inputs * num_outputs; e += num_threads()) {
        const int p = e / num_outputs, q = e % num_outputs;
        T *edge = block.gradient + layer[COEFFICIENTS] + (p0 + p) * layer[BASIS] * num_outputs + q;
        for (int n = 0; n < num_samples; ++n) {
            const int i = n * num_inputs + p;
            const Sample<T> sample = block.sample(n0 + n);
            const Column<T> b = sample.outputs(number);
            const Slopes<T, ORDER> slopes(sample.inputs(number), p0 + p, size);
            T r1, r2;
            slopes.pull(b, q, size, r1, r2);
            const T r0 = b(0, q);
            T *own = edge + block.cells[i] * num_outputs;
            UNROLL for (int s = 0; s < count; ++s) {
                T sum = own[s * num_outputs] + r0 * block.functions[s * staged + i];
                if (ORDER > 0) {
                    sum += r1 * block.functions[(count + s) * staged + i];
                    sum += r2 * block.functions[(2 * count + s) * staged + i];
                }
                own[s * num_outputs] = sum;
            }
        }
    }
}

template <typename T, int DEGREE, int ORDER>
DEVICE void add_spline(const Block<T, DEGREE, ORDER> &block, int number, int num_samples) {
    const int staged = static_cast<int>(block.call.staged);
    const int width = block.sample(0).layer(number)[INPUTS];
    const int inputs = width < staged ? width : staged, samples = staged / inputs;
    for (int p0 = 0; p0 < width; p0 += inputs) {
        const int own_inputs = width - p0 < inputs ? width - p0 : inputs;
        for (int n0 = 0; n0 < num_samples; n0 += samples) {
            const int own = num_samples - n0 < samples ? num_samples - n0 : samples;
            EACH_THREAD(t) { stage(block, number, t, p0, own_inputs, n0, own); }
            EACH_THREAD(t) { add_staged(block, number, t, p0, own_inputs, n0, own); }
        }
    }
}

template <typename T, int DEGREE, int ORDER>
PART void add_affine(const Block<T, DEGREE, ORDER> &block, int number, int t, int num_samples) {
    const Layer layer = block.sample(0).layer(number);
    const Size size = block.sample(0).size;
    const int num_inputs = layer[INPUTS], num_outputs = layer[OUTPUTS];
    for (int e = t; e < (num_inputs + layer[BIAS]) * num_outputs; e += num_threads()) {
        const int p = e / num_outputs, q = e % num_outputs;
        T sum = 0;
        for (int n = 0; n < num_samples; ++n) {
            const Sample<T> sample = block.sample(n);
            const Column<T> z = sample.inputs(number), b = sample.outputs(number);
            if (p == num_inputs) sum += b(0, q);
            else
                for (int j = 0; j < size.numbers(); ++j) sum += z(j, p) * b(j, q);
        }
        block.gradient[layer[COEFFICIENTS] + e] += sum;
    }
}

// Values and derivatives, or the squared error alone.
template <typename T, int DEGREE, int ORDER> KERNEL evaluate(PARAMETERS) {
    const Call<T> call = ARGUMENTS;
    const Block<T, DEGREE, ORDER> block(call);
    EACH_THREAD(t) { block.losses[t] = 0; }
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        EACH_THREAD(t) {
            const long long n = tile * num_threads() + t;
            if (n < call.samples) {
                const Sample<T> sample = block.sample(t);
                forward<T, DEGREE, ORDER>(sample, n);
                write_jets(sample, n);
                if (call.targets) block.losses[t] += compare(sample, n, false);
            }
        }
    }
    if (call.losses) add_losses(block);
}

// The gradient of a sum over samples: of squared errors where there are targets, else of jets times cotangents.
template <typename T, int DEGREE, int ORDER> KERNEL differentiate(PARAMETERS) {
    const Call<T> call = ARGUMENTS;
    const Block<T, DEGREE, ORDER> block(call);
    EACH_THREAD(t) {
        block.losses[t] = 0;
        for (long long i = t; i < call.num_coefficients; i += num_threads()) block.gradient[i] = 0;
    }
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        const int num_samples = block.tile_size(tile);
        EACH_THREAD(t) {
            if (t < num_samples) {
                const long long n = tile * num_threads() + t;
                const Sample<T> sample = block.sample(t);
                forward<T, DEGREE, ORDER>(sample, n);
                if (call.values) write_jets(sample, n);
                if (call.targets) block.losses[t] += compare(sample, n, true);
                else seed(sample, n);
            }
        }
        for (int number = static_cast<int>(call.num_layers) - 1; number >= 0; --number) {
            const Layer layer = block.sample(0).layer(number);
            if (!call.atomic && layer[KIND] != AFFINE) add_spline(block, number, num_samples);
            if (!call.atomic && layer[KIND] == AFFINE) {
                EACH_THREAD(t) { add_affine(block, number, t, num_samples); }
            }
            EACH_THREAD(t) {
                if (t < num_samples) {
                    const Sample<T> sample = block.sample(t);
                    if (call.atomic)
                        spread<T, DEGREE, ORDER>(sample, number, AtomicSum<T>{block.gradient});
                    if (number > 0 || call.point_gradients) pull<T, DEGREE, ORDER>(sample, number);
                    if (number == 0 && call.point_gradients)
                        write_point_gradient(sample, tile * num_threads() + t);
                }
            }
        }
    }
    if (call.gradient_is_shared) {
        EACH_THREAD(t) {
            T *partial = call.partials + block_number() * call.num_coefficients;
            for (long long i = t; i < call.num_coefficients; i += num_threads()) partial[i] = block.gradient[i];
        }
    }
    if (call.losses) add_losses(block);
}

// The gradient of every sample's own jet times its cotangents: rows of a Jacobian, which hold zeros before.
template <typename T, int DEGREE, int ORDER> KERNEL differentiate_rows(PARAMETERS) {
    const Call<T> call = ARGUMENTS;
    const Block<T, DEGREE, ORDER> block(call);
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        EACH_THREAD(t) {
            const long long n = tile * num_threads() + t;
            if (n < call.samples) {
                const Sample<T> sample = block.sample(t);
                const OwnRow<T> sink{call.rows + n * call.row_stride};
                forward<T, DEGREE, ORDER>(sample, n);
                seed(sample, n);
                for (int number = static_cast<int>(call.num_layers) - 1; number >= 0; --number) {
                    spread<T, DEGREE, ORDER>(sample, number, sink);
                    if (number > 0) pull<T, DEGREE, ORDER>(sample, number);
                }
            }
        }
    }
}

// The derivative of the values along a direction of the coefficients.
template <typename T, int DEGREE> KERNEL push_forward(PARAMETERS) {
    const Call<T> call = ARGUMENTS;
    const Block<T, DEGREE, 2> block(call);
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        EACH_THREAD(t) {
            const long long n = tile * num_threads() + t;
            if (n < call.samples) {
                const Sample<T> sample = block.sample(t);
                forward_tangent<T, DEGREE>(sample, n);
                const Column<T> y = sample.values();
                for (int q = 0; q < y.width; ++q) call.first[n * y.width + q] = y(1, q);
            }
        }
    }
}

// Add the blocks' sums: gradients to `values`, one thread for each entry of a group of blocks, then the groups in their
// order. The losses are added by the first block.
template <typename T> KERNEL merge(PARAMETERS) {
    const Call<T> call = ARGUMENTS;
    double *sums = shared_memory();
    const int columns = num_threads() / MERGE_GROUPS;
    const long long start = static_cast<long long>(block_number()) * columns;
    EACH_THREAD(t) {
        const long long i = start + t % columns;
        T sum = 0;
        if (i < call.num_coefficients)
            for (long long k = t / columns; k < call.num_partials; k += MERGE_GROUPS)
                sum += call.partials[k * call.num_coefficients + i];
        sums[t] = sum;
    }
    EACH_THREAD(t) {
        const long long i = start + t;
        if (t < columns && i < call.num_coefficients) {
            T sum = 0;
            for (int group = 0; group < MERGE_GROUPS; ++group) sum += static_cast<T>(sums[group * columns + t]);
            call.values[i] = sum;
        }
    }
    if (block_number() == 0 && call.losses) {
        EACH_THREAD(t) {
            double sum = 0;
            for (long long k = t; k < call.num_partials; k += num_threads()) sum += call.losses[k];
            sums[t] = sum;
        }
        EACH_THREAD(t) {
            if (t == 0) {
                double sum = 0;
                for (int other = 0; other < num_threads(); ++other) sum += sums[other];
                call.losses[call.num_partials] = sum;
            }
        }
    }
}
