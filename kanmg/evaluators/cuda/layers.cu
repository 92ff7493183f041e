// What layers do with the jets of one sample, forwards and backwards.
//
// The jet of a value along D directions are the numbers j = 0 (value), 1, ..., D (first derivatives) and D + 1, ..., 2 D
// (second derivatives). A spline layer maps the jets z of its inputs to
//
//     y0 = sum phi(z0),    y1 = sum phi'(z0) z1,    y2 = sum phi''(z0) z1^2 + phi'(z0) z2
//
// for every direction. Backwards, from the adjoints b of y,
//
//     r0 = b0,    r1 = sum over directions of b1 z1 + b2 z2,    r2 = sum over directions of b2 z1^2,
//     adjoint of the coefficients  r0 B + r1 B' + r2 B''
//     adjoints of the inputs       a0 = r0 phi' + r1 phi'' + r2 phi''',   a1 = b1 phi' + 2 b2 phi'' z1,   a2 = b2 phi'
//
// D, and where the numbers of a jet lie, are known to the compiler, so that jets are kept in registers and one address
// serves all numbers of a jet. First derivatives alone are computed as jets whose second derivatives nobody reads.

template <int D> constexpr int NUMBERS = 1 + 2 * D;

// Numbers of one kind of neighbouring samples are neighbours; the next ones follow after one more place than there are
// samples in a tile, so that the numbers of one sample lie in different banks of the shared memory.
enum { STRIDE = TILE + 1 };

// Cells are kept as numbers that order the samples of a tile by cell, and those of one cell by sample. Neighbouring samples
// are neighbours; the next value's begin at a multiple of 16 bytes.
enum { KEY_STRIDE = TILE + 4, KEY_BITS = TILE == 64 ? 6 : 5, LAST_KEY = 0x3fffffff };

// The jets of one sample at one layer's ends: number j of entry p. Where a spline layer follows, the value is not needed
// but for its cell and t, which take its place once it is known, and derivatives are in units of the cell's length.
template <typename T, int D> struct Column {
    T *first;
    int *keys;
    int n;

    DEVICE T &operator()(int j, int p) const { return first[(p * NUMBERS<D> + j) * STRIDE]; }

    DEVICE Spot<T> spot(int p) const {
        return Spot<T>{keys[p * KEY_STRIDE] >> KEY_BITS, (*this)(0, p)};
    }

    DEVICE void put(int p, const Spot<T> &spot) const {
        keys[p * KEY_STRIDE] = spot.cell * TILE + n;
        (*this)(0, p) = spot.t;
    }
};

// Outputs whose jets one thread keeps in registers at a time.
template <int D> constexpr int GROUP = D == 0 ? 8 : D == 3 ? 4 : 5;

template <int D> DEVICE int num_groups(int outputs) { return (outputs + GROUP<D> - 1) / GROUP<D>; }

// The derivatives of one input along all directions.
template <typename T, int D> struct Slopes {
    T first[D ? D : 1], second[D ? D : 1], square[D ? D : 1];

    DEVICE Slopes(Column<T, D> z, int p) {
        UNROLL for (int d = 0; d < D; ++d) {
            first[d] = z(1 + d, p);
            second[d] = z(1 + D + d, p);
            square[d] = first[d] * first[d];
        }
    }

    // Sum r1 and r2 of one output.
    DEVICE void pull(Column<T, D> b, int q, T &r1, T &r2) const {
        r1 = r2 = 0;
        UNROLL for (int d = 0; d < D; ++d) {
            const T b2 = b(1 + D + d, q);
            r1 += b(1 + d, q) * first[d];
            r1 += b2 * second[d];
            r2 += b2 * square[d];
        }
    }
};

// Compute the jets of `count` outputs from q0 on; at most a group. With IS_FULL, of a group: without looking for the end
// the compiler reads the next coefficients while it computes.
template <typename T, int DEGREE, int D, bool IS_FULL>
DEVICE void forward_spline(const Layer &layer, const T *theta, const T *tables, Column<T, D> z, Column<T, D> y, int q0,
                           int count) {
    T y0[GROUP<D>] = {}, y1[GROUP<D>][D ? D : 1] = {}, y2[GROUP<D>][D ? D : 1] = {};
    ROLLED for (int p = 0; p < layer.inputs; ++p) {
        const Place<T> place(z.spot(p), layer, p, tables, DEGREE);
        const Functions<T, DEGREE, D ? 3 : 1> functions(place, layer.outside);
        const Slopes<T, D> slopes(z, p);
        const T *edge = theta + layer.edge(p, q0) + place.cell;
        UNROLL for (int q = 0; q < GROUP<D>; ++q) {
            if (!IS_FULL && q >= count) break;
            const Coefficients<T, DEGREE> c(edge);
            edge += layer.row;
            y0[q] = contract<T, DEGREE>(c.of, functions.at[0], y0[q]);
            if constexpr (D > 0) {
                const T phi1 = contract<T, DEGREE>(c.of, functions.at[1]);
                const T phi2 = contract<T, DEGREE>(c.of, functions.at[2]);
                UNROLL for (int d = 0; d < D; ++d) {
                    y1[q][d] += phi1 * slopes.first[d];
                    y2[q][d] += phi2 * slopes.square[d];
                    y2[q][d] += phi1 * slopes.second[d];
                }
            }
        }
    }
    UNROLL for (int q = 0; q < GROUP<D>; ++q) {
        if (q >= count) break;
        y(0, q0 + q) = y0[q];
        UNROLL for (int d = 0; d < D; ++d) {
            y(1 + d, q0 + q) = y1[q][d];
            y(1 + D + d, q0 + q) = y2[q][d];
        }
    }
}

template <typename T, int D>
DEVICE void forward_affine(const Layer &layer, const T *theta, Column<T, D> z, Column<T, D> y, int q0, int count) {
    const T *weights = theta + layer.coefficients;
    for (int q = q0; q < q0 + count; ++q) {
        T sums[NUMBERS<D>] = {};
        if (layer.bias) sums[0] = weights[layer.inputs * layer.outputs + q];
        for (int p = 0; p < layer.inputs; ++p) {
            const T weight = weights[p * layer.outputs + q];
            UNROLL for (int j = 0; j < NUMBERS<D>; ++j) sums[j] += weight * z(j, p);
        }
        UNROLL for (int j = 0; j < NUMBERS<D>; ++j) y(j, q) = sums[j];
    }
}

// Replace the jet of input p of a spline layer by its adjoint. The sums over the outputs of b1 phi', b1 phi'', b2 phi',
// b2 phi'' and b2 phi''' suffice: what depends on the input alone is multiplied at the end.
template <typename T, int DEGREE, int D>
DEVICE void pull_spline(const Layer &layer, const T *theta, const T *tables, Column<T, D> z, Column<T, D> b, int p) {
    const Place<T> place(z.spot(p), layer, p, tables, DEGREE);
    const Functions<T, DEGREE, D ? 4 : 2> functions(place, layer.outside);
    const T *edge = theta + layer.edge(p, 0) + place.cell;
    T a0 = 0, sums[D ? D : 1][5] = {};
    for (int q = 0; q < layer.outputs; ++q) {
        const Coefficients<T, DEGREE> c(edge);
        edge += layer.row;
        const T phi1 = contract<T, DEGREE>(c.of, functions.at[1]);
        a0 += b(0, q) * phi1;
        if constexpr (D > 0) {
            const T phi2 = contract<T, DEGREE>(c.of, functions.at[2]);
            const T phi3 = contract<T, DEGREE>(c.of, functions.at[3]);
            UNROLL for (int d = 0; d < D; ++d) {
                const T b1 = b(1 + d, q), b2 = b(1 + D + d, q);
                sums[d][0] += b1 * phi1;
                sums[d][1] += b1 * phi2;
                sums[d][2] += b2 * phi1;
                sums[d][3] += b2 * phi2;
                sums[d][4] += b2 * phi3;
            }
        }
    }
    const T inverse = tables[layer.inverse_of(p, place.cell)];
    const Slopes<T, D> slopes(z, p);
    UNROLL for (int d = 0; d < D; ++d) {
        a0 += slopes.first[d] * sums[d][1] + slopes.second[d] * sums[d][3] + slopes.square[d] * sums[d][4];
        z(1 + d, p) = (sums[d][0] + 2 * slopes.first[d] * sums[d][3]) * inverse;
        z(1 + D + d, p) = sums[d][2] * inverse;
    }
    z(0, p) = a0 * inverse;
}

// Replace the jet of input p of an affine layer by its adjoint.
template <typename T, int D>
DEVICE void pull_affine(const Layer &layer, const T *theta, Column<T, D> z, Column<T, D> b, int p) {
    const T *weights = theta + layer.coefficients + p * layer.outputs;
    T sums[NUMBERS<D>] = {};
    for (int q = 0; q < layer.outputs; ++q)
        UNROLL for (int j = 0; j < NUMBERS<D>; ++j) sums[j] += weights[q] * b(j, q);
    UNROLL for (int j = 0; j < NUMBERS<D>; ++j) z(j, p) = sums[j];
}

// One sample's row of a Jacobian, which holds zeros before; `order` tells which of the user's coefficients the kernels'
// ones are, or -1.
template <typename T> struct Row {
    T *first;
    const int *order;
    DEVICE void put(int coefficient, T number) const {
        const int own = order[coefficient];
        if (own >= 0) first[own] = number;
    }
};

// Write the gradient of one sample with respect to the coefficients of input p of a spline layer.
template <typename T, int DEGREE, int D>
DEVICE void write_spline(const Layer &layer, const T *tables, Column<T, D> z, Column<T, D> b, int p, const Row<T> &to) {
    const Place<T> place(z.spot(p), layer, p, tables, DEGREE);
    const Functions<T, DEGREE, D ? 3 : 1> functions(place, layer.outside);
    const Slopes<T, D> slopes(z, p);
    for (int q = 0; q < layer.outputs; ++q) {
        const T r0 = b(0, q);
        T r1, r2;
        slopes.pull(b, q, r1, r2);
        UNROLL for (int s = 0; s <= DEGREE; ++s) {
            T number = r0 * functions.at[0][s];
            if constexpr (D > 0) number += r1 * functions.at[1][s] + r2 * functions.at[2][s];
            to.put(layer.edge(p, q) + place.cell + s, number);
        }
    }
}

// The same for an affine layer; p = inputs is the bias.
template <typename T, int D>
DEVICE void write_affine(const Layer &layer, Column<T, D> z, Column<T, D> b, int p, const Row<T> &to) {
    for (int q = 0; q < layer.outputs; ++q) {
        T sum = p == layer.inputs ? b(0, q) : T(0);
        if (p < layer.inputs)
            UNROLL for (int j = 0; j < NUMBERS<D>; ++j) sum += z(j, p) * b(j, q);
        to.put(layer.coefficients + p * layer.outputs + q, sum);
    }
}
