// The gradient by the coefficients, summed over the samples of a tile.
//
// The gradient is the same on every run: each edge (p, q) of a layer belongs to one thread of the block, which goes through
// the samples of the tile, sorted by cell where that pays, and adds to sums of its own: of the derivatives by the edge's
// coefficients or, where these would take a table at every cell, of the moments in every cell, from which they follow at
// the end. Where edges are fewer than threads, several threads take a part of the samples of an edge each, with a copy of
// the sums. A second kernel adds the blocks' sums in their order. Atomic additions, which depend on the order, were slower:
// all samples of a tile add to the same few numbers.

// What a sample gives to the gradient of an edge in one cell. Its derivatives by the coefficients are L(B_s), where
//
//     L(f) = r0 f(t) + r1 f'(t) + r2 f''(t),
//
// of polynomials f in the cell: it is known from its moments m_j = L(t^j). With M(f) = r1 f(t) + 2 r2 f'(t), N(f) = 2 r2 f(t),
//
//     L(t f) = t L(f) + M(f),    M(t f) = t M(f) + N(f),    N(t f) = t N(f).
template <typename T, int DEGREE, int D> struct Moments {
    T of[DEGREE + 1];

    DEVICE void fill(T t, T r0, T r1, T r2) {
        T first = r1, second = 2 * r2;
        of[0] = r0;
        UNROLL for (int j = 0; j < DEGREE; ++j) {
            of[j + 1] = t * of[j];
            if constexpr (D > 0) {
                of[j + 1] += first;
                first = t * first + second;
                second *= t;
            }
        }
    }

    // Outside, where the value at the end, the tangent there, or nothing counts.
    DEVICE void leave(const Layer &layer, T excess, T r0, T r1) {
        const T value = layer.outside == ZERO ? T(0) : r0;
        const T slope = layer.outside == LINEAR ? r1 + r0 * excess : T(0);
        UNROLL for (int j = 0; j <= DEGREE; ++j) {
            if (excess < 0) of[j] = j == 0 ? value : j == 1 ? slope : T(0);
            else of[j] = value + j * slope;
        }
    }

    // Replace the moments by the derivatives.
    DEVICE void spread() {
        constexpr Cardinal<DEGREE, 1> cardinal;
        T result[DEGREE + 1];
        UNROLL for (int s = 0; s <= DEGREE; ++s) {
            result[s] = 0;
            UNROLL for (int j = 0; j <= DEGREE; ++j)
                if (cardinal.at[0][j][s] != 0) result[s] += static_cast<T>(cardinal.at[0][j][s]) * of[j];
        }
        UNROLL for (int s = 0; s <= DEGREE; ++s) of[s] = result[s];
    }
};

// The same for the polynomials of a table. Not inlined, because it is rare.
template <typename T, int DEGREE> PART void spread_by_table(const T *powers, T *moments) {
    T result[DEGREE + 1];
    UNROLL for (int s = 0; s <= DEGREE; ++s) {
        result[s] = 0;
        UNROLL for (int j = 0; j <= DEGREE; ++j) result[s] += powers[j * (DEGREE + 1) + s] * moments[j];
    }
    UNROLL for (int s = 0; s <= DEGREE; ++s) moments[s] = result[s];
}

// Order the samples of a tile by their cells, for every input of a layer: a sample's place is the number of samples before it.
template <typename T, int DEGREE, int D>
DEVICE void sort_tile(const Block<T, DEGREE, D> &block, const Layer &layer, int t, int num_samples) {
    struct alignas(16) Four {
        int of[4];
    };
    ROLLED for (int i = t; i < layer.inputs * TILE; i += num_threads()) {
        const int p = i / TILE, n = i - p * TILE;
        const int *keys = block.keys + (layer.input_slot + p) * KEY_STRIDE;
        const int own = keys[n];
        int place = 0;
        UNROLL for (int m = 0; m < TILE; m += 4) {
            const Four four = *reinterpret_cast<const Four *>(keys + m);
            // The sign of the difference: two instructions, where a comparison takes three.
            UNROLL for (int k = 0; k < 4; ++k) place += static_cast<unsigned>(four.of[k] - own) >> 31;
        }
        if (n < num_samples) block.order[p * TILE + place] = static_cast<unsigned char>(n);
    }
}

// Add the sums of one cell to those of an edge.
template <typename T, int DEGREE, int D>
DEVICE void flush(const Block<T, DEGREE, D> &block, const Layer &layer, int p, int cell, Moments<T, DEGREE, D> sum,
                  T *sums) {
    if (layer.uniform == CARDINAL) {
        sum.spread();
    } else if (layer.sum_cell == 1) {
        T all[DEGREE + 1];  // a copy has an address, so that the sums themselves can stay in registers
        UNROLL for (int s = 0; s <= DEGREE; ++s) all[s] = sum.of[s];
        spread_by_table<T, DEGREE>(block.call.tables + layer.powers_of(p, cell, DEGREE), all);
        UNROLL for (int s = 0; s <= DEGREE; ++s) sum.of[s] = all[s];
    }
    T *own = sums + cell * layer.sum_cell;
    if (SUMS_ARE_SHARED) {
        UNROLL for (int s = 0; s <= DEGREE; ++s) own[s] += sum.of[s];
    } else {
        UNROLL for (int s = 0; s <= DEGREE; ++s) add_far(own + s, sum.of[s]);
    }
}

// Add what the samples of a tile from number `begin` to number `end` give to the sums of the edge from input p to output q.
// The moments of neighbours in one cell are added in registers. Several samples are looked at before any is added, without
// branches in between, so that the thread waits less for memory: at the end, one of them more than once.
template <typename T, int DEGREE, int D>
DEVICE void add_edge(const Block<T, DEGREE, D> &block, const Layer &layer, int p, int q, int begin, int end, T *sums) {
    constexpr int TOGETHER = D == 0 ? 4 : 2;
    Moments<T, DEGREE, D> sum = {};
    int cell = -1;
    ROLLED for (int first = begin; first < end; first += TOGETHER) {
        Moments<T, DEGREE, D> parts[TOGETHER];
        Spot<T> spots[TOGETHER];
        T r0[TOGETHER], r1[TOGETHER], r2[TOGETHER];
        bool is_outside = false;
        UNROLL for (int k = 0; k < TOGETHER; ++k) {
            const int i = first + k < end ? first + k : first;
            const Sample<T, D> sample = block.sample(layer.is_sorted ? block.order[p * TILE + i] : i);
            const Column<T, D> z = sample.inputs(layer), b = sample.outputs(layer);
            spots[k] = z.spot(p);
            r0[k] = b(0, q);
            Slopes<T, D>(z, p).pull(b, q, r1[k], r2[k]);
            is_outside = is_outside || spots[k].is_outside();
        }
        UNROLL for (int k = 0; k < TOGETHER; ++k) parts[k].fill(spots[k].t, r0[k], r1[k], r2[k]);
        if (is_outside) {
            UNROLL for (int k = 0; k < TOGETHER; ++k)
                if (spots[k].is_outside()) parts[k].leave(layer, spots[k].t, r0[k], r1[k]);
        }
        UNROLL for (int k = 0; k < TOGETHER; ++k) {
            if (first + k >= end) break;
            if (spots[k].own_cell() != cell) {
                if (cell >= 0) flush(block, layer, p, cell, sum, sums);
                cell = spots[k].own_cell();
                UNROLL for (int j = 0; j <= DEGREE; ++j) sum.of[j] = 0;
            }
            UNROLL for (int j = 0; j <= DEGREE; ++j) sum.of[j] += parts[k].of[j];
        }
    }
    if (cell >= 0) flush(block, layer, p, cell, sum, sums);
}

// Add to the gradient of a spline layer what a tile gives.
template <typename T, int DEGREE, int D>
DEVICE void add_spline(const Block<T, DEGREE, D> &block, const Layer &layer, int t, int num_samples) {
    const int edges = layer.inputs * layer.outputs, own = (num_samples + layer.copies - 1) / layer.copies;
    ROLLED for (int e = t; e < edges * layer.copies; e += num_threads()) {
        const int copy = e / edges, edge = e - copy * edges, p = edge / layer.outputs, q = edge - p * layer.outputs;
        const int begin = copy * own, end = begin + own < num_samples ? begin + own : num_samples;
        add_edge(block, layer, p, q, begin, end, block.gradient + layer.edge_sums(copy, p, q));
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
        if (layer.is_sorted) {
            EACH_THREAD(t) { sort_tile(block, layer, t, num_samples); }
        }
        EACH_THREAD(t) {
            if (layer.kind == AFFINE) add_affine(block, layer, t, num_samples);
            else add_spline(block, layer, t, num_samples);
        }
        if (number > 0 || block.call.point_gradients) {
            EACH_THREAD(t) { pull_tile(block, layer, t, num_samples); }
        }
    }
}

// The derivative by coefficient i of an edge, from the moments of its cells.
template <typename T, int DEGREE>
DEVICE T gather(const Layer &layer, int p, int i, const T *moments, const T *tables) {
    T sum = 0;
    for (int s = 0; s <= DEGREE; ++s) {
        const int cell = i - s;
        if (cell < 0 || cell >= layer.cells) continue;
        const T *powers = tables + layer.powers_of(p, cell, DEGREE) + s, *own = moments + cell * layer.sum_cell;
        for (int j = 0; j <= DEGREE; ++j) sum += powers[j * (DEGREE + 1)] * own[j];
    }
    return sum;
}

// Add the copies of every layer's sums, and write them where the blocks' sums are added.
template <typename T, int DEGREE, int D> DEVICE void write_sums(const Block<T, DEGREE, D> &block, int t) {
    T *partial = block.call.partials + block_number() * block.call.num_coefficients;
    for (int number = 0; number < block.num_layers; ++number) {
        const Layer layer = layer_of(block.call, number);
        const int size = layer.size(), step = layer.num_sums();
        for (int i = t; i < size; i += num_threads()) {
            const T *own = block.gradient + layer.sums;
            T sum = 0;
            for (int copy = 0; copy < layer.copies; ++copy, own += step) {
                if (layer.sum_cell == 1) {
                    sum += own[i];
                } else {
                    const int edge = i / layer.row, p = edge / layer.outputs;
                    const T *moments = own + edge * layer.sum_row;
                    sum += gather<T, DEGREE>(layer, p, i - edge * layer.row, moments, block.call.tables);
                }
            }
            partial[layer.coefficients + i] = sum;
        }
    }
}
