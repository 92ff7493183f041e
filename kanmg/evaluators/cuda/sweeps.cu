// The kernels. A block takes tiles of samples, one after the other, through the whole network. What is to be done in a
// phase is cut into parts that are independent of each other: a sample and a group of outputs on the way forwards, a sample
// and an input on the way backwards. Part i goes to thread i modulo the number of threads, so that neighbouring threads
// have neighbouring samples.

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
                    forward<T, DEGREE, 1>(block.sample(n), layer, block.theta, groups.first(i), groups.count(i));
                    add_change<T, DEGREE>(block.sample(n), layer, groups.first(i), groups.count(i));
                    settle(block.sample(n), number + 1, groups.first(i), groups.count(i));
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
