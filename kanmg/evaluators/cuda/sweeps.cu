// The kernels. A block takes tiles of samples, one after the other, through the whole network. What is to be done in a
// phase is cut into parts that are independent of each other: a sample and a group of outputs on the way forwards, a sample
// and an input on the way backwards. Part i goes to thread i modulo the number of threads, so that neighbouring threads
// have neighbouring samples.
//
// The gradient is the same on every run: each edge (p, q) of a layer belongs to one thread of the block, which goes through
// the samples of the tile in their order and adds to sums of its own. Where edges are fewer than threads, several threads
// take every second, third, ... sample of an edge, each with a copy of the sums, which are added at the end. A second
// kernel adds the blocks' sums in their order. Atomic additions, which depend on the order, were slower: all samples of a
// tile add to the same few numbers.

// Numbers of shared memory that are read at once.
template <typename T> struct alignas(16) Pack {
    static constexpr int SIZE = 16 / sizeof(T);
    T of[SIZE];
};

// The memory of one block: the threads' losses, basis functions of a part of the tile, the jets of the tile (in global
// memory where they do not fit), a copy of the coefficients (where it fits), the sums of gradients (likewise), and the cells
// of the jets' values. `gpu_launch.py` computes the sizes. What is in shared memory is known to the compiler, because
// access to memory of which it does not know where it is takes longer, and addresses of twice the length.
template <typename T, int DEGREE, int D> struct Block {
    // Functions and derivatives that the gradient of the coefficients takes.
    static constexpr int LEVELS = D == 0 ? 1 : 3;
    // Packs of one point's functions, and how far apart those of two points are: odd, so that they lie in different banks.
    static constexpr int PACKS = (LEVELS * (DEGREE + 1) + Pack<T>::SIZE - 1) / Pack<T>::SIZE, ROW = PACKS | 1;
    const Call<T> &call;
    double *losses;
    Pack<T> *functions;
    T *jets, *gradient, *own_theta;
    const T *theta;
    int *cells;
    int num_layers;

    DEVICE Block(const Call<T> &call, bool wants_gradient) : call(call), num_layers(static_cast<int>(call.num_layers)) {
        losses = shared_memory();
        functions = reinterpret_cast<Pack<T> *>(losses + num_threads());
        T *free = reinterpret_cast<T *>(functions + (wants_gradient ? call.staged * ROW : 0));
        const long long entries = call.entries * (NUMBERS<D> * STRIDE);
        jets = JETS_ARE_SHARED ? free : call.scratch + block_number() * call.scratch_size;
        if (JETS_ARE_SHARED) free += entries;
        own_theta = free;
        theta = THETA_IS_SHARED ? free : call.theta;
        if (THETA_IS_SHARED) free += call.num_coefficients;
        gradient = SUMS_ARE_SHARED ? free : call.partials + block_number() * call.num_coefficients;
        if (SUMS_ARE_SHARED && wants_gradient) free += call.num_sums;
        cells = reinterpret_cast<int *>(JETS_ARE_SHARED ? free : jets + entries);
    }

    DEVICE Sample<T, D> sample(int n) const { return Sample<T, D>(call, jets + n, cells + n); }
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
        for (int n = t; n < num_samples; n += num_threads()) begin(block.sample(n), layer, first + n);
    }
    for (int number = 0; number < block.num_layers; ++number) {
        EACH_THREAD(t) {
            const Groups<D> groups(layer_of(block.call, number));
            ROLLED for (int i = t; i < groups.parts(); i += num_threads()) {
                const int n = i % TILE;
                if (n < num_samples)
                    forward<T, DEGREE, D>(block.sample(n), number, block.theta, groups.first(i), groups.count(i));
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

// Some inputs p0, ..., p0 + inputs - 1 of a layer at some samples n0, ..., n0 + samples - 1 of a tile, whose basis functions
// are in shared memory.
struct Part {
    int p0, inputs, n0, samples;
};

// Evaluate the basis functions of a part.
template <typename T, int DEGREE, int D>
DEVICE void stage(const Block<T, DEGREE, D> &block, const Layer &layer, int t, const Part &part) {
    using B = Block<T, DEGREE, D>;
    ROLLED for (int i = t; i < part.inputs * part.samples; i += num_threads()) {
        const int n = i / part.inputs, p = part.p0 + i - n * part.inputs;
        const Column<T, D> z = block.sample(part.n0 + n).inputs(layer);
        const Place<T> place(z.spot(p), layer, p, block.call.tables, DEGREE);
        Functions<T, DEGREE, B::LEVELS> functions(place, layer.outside);
        functions.scale(place.inverse);
        UNROLL for (int j = 0; j < B::PACKS; ++j) {
            Pack<T> pack;
            UNROLL for (int k = 0; k < Pack<T>::SIZE; ++k) {
                const int number = j * Pack<T>::SIZE + k, level = number / (DEGREE + 1);
                pack.of[k] = level < B::LEVELS ? functions.at[level][number % (DEGREE + 1)] : T(0);
            }
            block.functions[i * B::ROW + j] = pack;
        }
    }
}

// r0, r1 and r2 of one sample, of input p and output q.
template <typename T, int D> struct Factors {
    T r0, r1, r2;

    DEVICE Factors(const Sample<T, D> &sample, const Layer &layer, int p, int q) {
        const Column<T, D> b = sample.outputs(layer);
        r0 = b(0, q);
        Slopes<T, D>(sample.inputs(layer), p, T(1)).pull(b, q, r1, r2);
    }
};

// Add what every `step`-th sample of a part, from sample n0 on, gives to the sums of the edge from its input p to output q.
// Several samples are looked at before any is added, so that the thread waits less for memory.
template <typename T, int DEGREE, int D>
DEVICE void add_edge(const Block<T, DEGREE, D> &block, const Layer &layer, const Part &part, int p, int q, int n0,
                     int step, T *sums) {
    using B = Block<T, DEGREE, D>;
    constexpr int TOGETHER = D == 0 ? 4 : 2, COUNT = DEGREE + 1;
    ROLLED for (int first = n0; first < part.samples; first += TOGETHER * step) {
        T parts[TOGETHER][COUNT];
        UNROLL for (int k = 0; k < TOGETHER; ++k) {
            const int n = first + k * step;
            if (n >= part.samples) break;
            const Factors<T, D> factors(block.sample(part.n0 + n), layer, part.p0 + p, q);
            T functions[B::PACKS * Pack<T>::SIZE];
            UNROLL for (int j = 0; j < B::PACKS; ++j) {
                const Pack<T> pack = block.functions[(n * part.inputs + p) * B::ROW + j];
                UNROLL for (int i = 0; i < Pack<T>::SIZE; ++i) functions[j * Pack<T>::SIZE + i] = pack.of[i];
            }
            UNROLL for (int s = 0; s < COUNT; ++s) {
                parts[k][s] = factors.r0 * functions[s];
                if constexpr (D > 0) {
                    parts[k][s] += factors.r1 * functions[COUNT + s];
                    parts[k][s] += factors.r2 * functions[2 * COUNT + s];
                }
            }
        }
        UNROLL for (int k = 0; k < TOGETHER; ++k) {
            const int n = first + k * step;
            if (n >= part.samples) break;
            T *own = sums + block.sample(part.n0 + n).inputs(layer).spot(part.p0 + p).own_cell();
            if (SUMS_ARE_SHARED) {
                UNROLL for (int s = 0; s < COUNT; ++s) own[s] += parts[k][s];
            } else {
                UNROLL for (int s = 0; s < COUNT; ++s) add_far(own + s, parts[k][s]);
            }
        }
    }
}

// Add what a part gives to the gradient.
template <typename T, int DEGREE, int D>
DEVICE void add_part(const Block<T, DEGREE, D> &block, const Layer &layer, int t, const Part &part) {
    const int edges = part.inputs * layer.outputs;
    ROLLED for (int e = t; e < edges * layer.copies; e += num_threads()) {
        const int copy = e / edges, edge = e - copy * edges, p = edge / layer.outputs, q = edge - p * layer.outputs;
        T *sums = block.gradient + layer.edge_sums(copy, part.p0 + p, q);
        add_edge(block, layer, part, p, q, copy, layer.copies, sums);
    }
}

template <typename T, int DEGREE, int D>
DEVICE void add_spline(const Block<T, DEGREE, D> &block, const Layer &layer, int num_samples) {
    const int width = layer.inputs, staged = static_cast<int>(block.call.staged);
    const int inputs = width < staged ? width : staged, parts = (TILE + staged / inputs - 1) / (staged / inputs);
    const int samples = (TILE + parts - 1) / parts;  // of parts that are equal but for the last one
    for (int p0 = 0; p0 < width; p0 += inputs) {
        for (int n0 = 0; n0 < num_samples; n0 += samples) {
            const int own_inputs = width - p0 < inputs ? width - p0 : inputs;
            const int own_samples = num_samples - n0 < samples ? num_samples - n0 : samples;
            const Part part{p0, own_inputs, n0, own_samples};
            EACH_THREAD(t) { stage(block, layer, t, part); }
            EACH_THREAD(t) { add_part(block, layer, t, part); }
        }
    }
}

template <typename T, int DEGREE, int D>
DEVICE void add_affine(const Block<T, DEGREE, D> &block, const Layer &layer, int t, int num_samples) {
    for (int e = t; e < (layer.inputs + layer.bias) * layer.outputs; e += num_threads()) {
        const int p = e / layer.outputs, q = e - p * layer.outputs;
        T sum = 0;
        for (int n = 0; n < num_samples; ++n) {
            const Sample<T, D> sample = block.sample(n);
            const Column<T, D> z = sample.inputs(layer), b = sample.outputs(layer);
            if (p == layer.inputs) sum += b(0, q);
            else
                UNROLL for (int j = 0; j < NUMBERS<D>; ++j) sum += z(j, p) * b(j, q);
        }
        block.gradient[layer.sums + e] += sum;
    }
}

// Add to the gradient what a tile gives, from the last layer to the first; the jets become adjoints.
template <typename T, int DEGREE, int D>
DEVICE void backward_tile(const Block<T, DEGREE, D> &block, int num_samples) {
    for (int number = block.num_layers - 1; number >= 0; --number) {
        const Layer layer = layer_of(block.call, number);
        if (layer.kind == AFFINE) {
            EACH_THREAD(t) { add_affine(block, layer, t, num_samples); }
        } else {
            add_spline(block, layer, num_samples);
        }
        if (number > 0 || block.call.point_gradients) {
            EACH_THREAD(t) { pull_tile(block, layer, t, num_samples); }
        }
    }
}

// Add the copies of every layer's sums, and write them where the blocks' sums are added.
template <typename T, int DEGREE, int D> DEVICE void write_sums(const Block<T, DEGREE, D> &block, int t) {
    T *partial = block.call.partials + block_number() * block.call.num_coefficients;
    for (int number = 0; number < block.num_layers; ++number) {
        const Layer layer = layer_of(block.call, number);
        const int size = layer.size();
        for (int i = t; i < size; i += num_threads()) {
            T sum = 0;
            for (int copy = 0; copy < layer.copies; ++copy) sum += block.gradient[layer.sums + copy * size + i];
            partial[layer.coefficients + i] = sum;
        }
    }
}

// Values and derivatives, or the squared error alone.
template <typename T, int DEGREE, int D> KERNEL evaluate(PARAMETERS) {
    const Block<T, DEGREE, D> block(call, false);
    block.copy_theta();
    EACH_THREAD(t) { block.losses[t] = 0; }
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        const long long first = tile * TILE;
        const int num_samples = block.size(first);
        forward_tile(block, first, num_samples);
        EACH_THREAD(t) {
            const Layer last = last_layer(call);
            for (int n = t; n < num_samples; n += num_threads()) {
                write_jets(block.sample(n), last, first + n);
                if (call.targets) block.losses[t] += compare(block.sample(n), last, first + n, false);
            }
        }
    }
    if (call.losses) add_losses(block);
}

// The gradient of a sum over samples: of squared errors where there are targets, else of jets times cotangents.
template <typename T, int DEGREE, int D> KERNEL differentiate(PARAMETERS) {
    const Block<T, DEGREE, D> block(call, true);
    block.copy_theta();
    EACH_THREAD(t) {
        block.losses[t] = 0;
        const long long num_sums = SUMS_ARE_SHARED ? call.num_sums : call.num_coefficients;
        for (int i = t; i < num_sums; i += num_threads()) block.gradient[i] = 0;
    }
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        const long long first = tile * TILE;
        const int num_samples = block.size(first);
        forward_tile(block, first, num_samples);
        EACH_THREAD(t) {
            const Layer last = last_layer(call);
            for (int n = t; n < num_samples; n += num_threads()) {
                const Sample<T, D> sample = block.sample(n);
                if (call.targets) block.losses[t] += compare(sample, last, first + n, true);
                else seed(sample, last, first + n);
            }
        }
        backward_tile(block, num_samples);
        if (call.point_gradients) {
            EACH_THREAD(t) {
                const Layer layer = layer_of(call, 0);
                for (int n = t; n < num_samples; n += num_threads())
                    write_point_gradient(block.sample(n), layer, first + n);
            }
        }
    }
    if (SUMS_ARE_SHARED) {
        EACH_THREAD(t) { write_sums(block, t); }
    }
    if (call.losses) add_losses(block);
}

// The gradient of every sample's own jet times its cotangents: rows of a Jacobian, which hold zeros before.
template <typename T, int DEGREE, int D> KERNEL differentiate_rows(PARAMETERS) {
    const Block<T, DEGREE, D> block(call, false);
    block.copy_theta();
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        const long long first = tile * TILE;
        const int num_samples = block.size(first);
        forward_tile(block, first, num_samples);
        EACH_THREAD(t) {
            const Layer last = last_layer(call);
            for (int n = t; n < num_samples; n += num_threads()) seed(block.sample(n), last, first + n);
        }
        for (int number = block.num_layers - 1; number >= 0; --number) {
            const Layer layer = layer_of(call, number);
            EACH_THREAD(t) {
                const int rows = layer.inputs + (layer.kind == AFFINE && layer.bias);
                ROLLED for (int i = t; i < rows * TILE; i += num_threads()) {
                    const int n = i % TILE;
                    const Row<T> row{call.rows + (first + n) * call.row_stride, call.order};
                    if (n < num_samples) write_gradient<T, DEGREE, D>(block.sample(n), layer, i / TILE, row);
                }
            }
            if (number > 0) {
                EACH_THREAD(t) { pull_tile(block, layer, t, num_samples); }
            }
        }
    }
}

// The derivative of the values along a direction of the coefficients: the numbers 0 and 1 of a jet, to which every layer
// adds what the change of its own coefficients gives.
template <typename T, int DEGREE> KERNEL push_forward(PARAMETERS) {
    const Block<T, DEGREE, 1> block(call, false);
    block.copy_theta();
    for (long long tile = block_number(); tile < block.num_tiles(); tile += num_blocks()) {
        const long long first = tile * TILE;
        const int num_samples = block.size(first);
        EACH_THREAD(t) {
            const Layer layer = layer_of(call, 0);
            for (int n = t; n < num_samples; n += num_threads()) {
                const Column<T, 1> x = block.sample(n).inputs(layer);
                for (int p = 0; p < layer.inputs; ++p) {
                    x(0, p) = call.x[(first + n) * layer.inputs + p];
                    x(1, p) = x(2, p) = 0;
                }
                settle(block.sample(n), 0, 0, layer.inputs);
            }
        }
        for (int number = 0; number < block.num_layers; ++number) {
            EACH_THREAD(t) {
                const Layer layer = layer_of(call, number);
                const Groups<1> groups(layer);
                ROLLED for (int i = t; i < groups.parts(); i += num_threads()) {
                    const int n = i % TILE;
                    if (n >= num_samples) continue;
                    forward<T, DEGREE, 1>(block.sample(n), number, block.theta, groups.first(i), groups.count(i));
                    add_change<T, DEGREE>(block.sample(n), layer, groups.first(i), groups.count(i));
                }
            }
        }
        EACH_THREAD(t) {
            const Layer last = last_layer(call);
            for (int n = t; n < num_samples; n += num_threads()) {
                const Column<T, 1> y = block.sample(n).outputs(last);
                for (int q = 0; q < last.outputs; ++q) call.first[(first + n) * last.outputs + q] = y(1, q);
            }
        }
    }
}

// Add the blocks' sums: gradients to `values`, in the user's order, one thread for each entry of a group of blocks, then
// the groups in their order. The losses are added by the first block.
template <typename T> KERNEL merge(PARAMETERS) {
    double *sums = shared_memory();
    const int columns = num_threads() / MERGE_GROUPS;
    const long long start = static_cast<long long>(block_number()) * columns;
    EACH_THREAD(t) {
        const long long i = start + t % columns;
        T sum = 0;
        if (i < call.num_places) {
            const T *own = call.partials + call.places[i];
            for (long long k = t / columns; k < call.num_partials; k += MERGE_GROUPS) sum += own[k * call.num_coefficients];
        }
        sums[t] = sum;
    }
    EACH_THREAD(t) {
        const long long i = start + t;
        if (t < columns && i < call.num_places) {
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
