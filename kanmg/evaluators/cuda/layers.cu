// What layers do with the jets of one sample, forwards and backwards.
//
// The jet of a value along D directions are the numbers j = 0 (value), 1, ..., D (first derivatives) and, for order 2,
// D + 1, ..., 2 D (second derivatives). A spline layer maps the jets z of its inputs to
//
//     y0 = sum phi(z0),    y1 = sum phi'(z0) z1,    y2 = sum phi''(z0) z1^2 + phi'(z0) z2
//
// for every direction. Backwards, from the adjoints b of y,
//
//     r0 = b0,    r1 = sum over directions of b1 z1 + b2 z2,    r2 = sum over directions of b2 z1^2,
//     adjoint of the coefficients  r0 B + r1 B' + r2 B''
//     adjoints of the inputs       a0 = r0 phi' + r1 phi'' + r2 phi''',   a1 = b1 phi' + 2 b2 phi'' z1,   a2 = b2 phi'
//
// ORDER 0 compiles values alone, ORDER 2 all of this for up to MAX_DIRECTIONS directions.

// The numbers of the jets of one sample at one layer's ends: entry (j, p) of `width` values. Entries of one sample are
// `stride` apart, so that neighbouring threads have neighbouring places.
template <typename T> struct Column {
    T *first;
    int stride, width;
    DEVICE T &operator()(int j, int p) const { return first[(j * width + p) * stride]; }
};

// How many numbers a jet has.
struct Size {
    int directions, order;
    DEVICE int numbers() const { return 1 + directions * order; }
    DEVICE int second(int d) const { return 1 + directions + d; }
};

// The derivatives of one input along all directions, in registers.
template <typename T, int ORDER> struct Slopes {
    T first[MAX_DIRECTIONS], second[MAX_DIRECTIONS];

    DEVICE Slopes(Column<T> z, int p, Size size) {
        UNROLL for (int d = 0; d < MAX_DIRECTIONS; ++d) {
            const bool is_there = ORDER > 0 && d < size.directions;
            first[d] = is_there ? z(1 + d, p) : T(0);
            second[d] = is_there && size.order == 2 ? z(size.second(d), p) : T(0);
        }
    }

    // Sum r1 and r2 of one output.
    DEVICE void pull(Column<T> b, int q, Size size, T &r1, T &r2) const {
        r1 = r2 = 0;
        if constexpr (ORDER > 0) {
            UNROLL for (int d = 0; d < MAX_DIRECTIONS; ++d) {
                if (d >= size.directions) break;
                r1 += b(1 + d, q) * first[d];
                if (size.order == 2) {
                    const T b2 = b(size.second(d), q);
                    r1 += b2 * second[d];
                    r2 += b2 * first[d] * first[d];
                }
            }
        }
    }
};

template <typename T> DEVICE void clear(Column<T> y, Size size) {
    for (int j = 0; j < size.numbers(); ++j)
        for (int q = 0; q < y.width; ++q) y(j, q) = 0;
}

template <typename T, int DEGREE, int ORDER>
PART void forward_spline(
    Layer layer, const T *theta, const T *tables, Column<T> z, Column<T> y, Size size, long long *status) {
    clear(y, size);
    for (int p = 0; p < z.width; ++p) {
        const Place<T> place = locate<T, DEGREE>(z(0, p), layer, p, tables, status);
        const Functions<T, DEGREE, ORDER == 0 ? 2 : 3> functions(place, layer[OUTSIDE]);
        const Slopes<T, ORDER> slopes(z, p, size);
        const T *edge = theta + layer[COEFFICIENTS] + (p * layer[BASIS] + place.cell) * y.width;
        for (int q = 0; q < y.width; ++q) {
            y(0, q) += contract<T, DEGREE>(edge + q, y.width, functions.at[0]);
            if constexpr (ORDER > 0) {
                const T phi1 = contract<T, DEGREE>(edge + q, y.width, functions.at[1]);
                const T phi2 = contract<T, DEGREE>(edge + q, y.width, functions.at[2]);
                UNROLL for (int d = 0; d < MAX_DIRECTIONS; ++d) {
                    if (d >= size.directions) break;
                    y(1 + d, q) += phi1 * slopes.first[d];
                    if (size.order == 2)
                        y(size.second(d), q) += phi2 * slopes.first[d] * slopes.first[d] + phi1 * slopes.second[d];
                }
            }
        }
    }
}

template <typename T>
PART void forward_affine(Layer layer, const T *theta, Column<T> z, Column<T> y, Size size) {
    const T *weights = theta + layer[COEFFICIENTS];
    for (int j = 0; j < size.numbers(); ++j) {
        for (int q = 0; q < y.width; ++q) {
            T sum = j == 0 && layer[BIAS] ? weights[z.width * y.width + q] : T(0);
            for (int p = 0; p < z.width; ++p) sum += weights[p * y.width + q] * z(j, p);
            y(j, q) = sum;
        }
    }
}

// Replace the jets of a spline layer's inputs by their adjoints.
template <typename T, int DEGREE, int ORDER>
PART void pull_spline(
    Layer layer, const T *theta, const T *tables, Column<T> z, Column<T> b, Size size, long long *status) {
    for (int p = 0; p < z.width; ++p) {
        const Place<T> place = locate<T, DEGREE>(z(0, p), layer, p, tables, status);
        const Functions<T, DEGREE, ORDER == 0 ? 2 : 4> functions(place, layer[OUTSIDE]);
        const Slopes<T, ORDER> slopes(z, p, size);
        const T *edge = theta + layer[COEFFICIENTS] + (p * layer[BASIS] + place.cell) * b.width;
        T a0 = 0, a1[MAX_DIRECTIONS] = {}, a2[MAX_DIRECTIONS] = {};
        for (int q = 0; q < b.width; ++q) {
            const T phi1 = contract<T, DEGREE>(edge + q, b.width, functions.at[1]);
            a0 += b(0, q) * phi1;
            if constexpr (ORDER > 0) {
                const T phi2 = contract<T, DEGREE>(edge + q, b.width, functions.at[2]);
                const T phi3 = contract<T, DEGREE>(edge + q, b.width, functions.at[3]);
                T r1, r2;
                slopes.pull(b, q, size, r1, r2);
                a0 += r1 * phi2 + r2 * phi3;
                UNROLL for (int d = 0; d < MAX_DIRECTIONS; ++d) {
                    if (d >= size.directions) break;
                    a1[d] += b(1 + d, q) * phi1;
                    if (size.order == 2) {
                        const T b2 = b(size.second(d), q);
                        a1[d] += 2 * b2 * phi2 * slopes.first[d];
                        a2[d] += b2 * phi1;
                    }
                }
            }
        }
        z(0, p) = a0;
        if constexpr (ORDER > 0) {
            UNROLL for (int d = 0; d < MAX_DIRECTIONS; ++d) {
                if (d >= size.directions) break;
                z(1 + d, p) = a1[d];
                if (size.order == 2) z(size.second(d), p) = a2[d];
            }
        }
    }
}

// Replace the jets of an affine layer's inputs by their adjoints.
template <typename T>
PART void pull_affine(Layer layer, const T *theta, Column<T> z, Column<T> b, Size size) {
    const T *weights = theta + layer[COEFFICIENTS];
    for (int j = 0; j < size.numbers(); ++j) {
        for (int p = 0; p < z.width; ++p) {
            T sum = 0;
            for (int q = 0; q < b.width; ++q) sum += weights[p * b.width + q] * b(j, q);
            z(j, p) = sum;
        }
    }
}

// Where one sample's part of a gradient goes: added to a sum that other threads add to as well, ...
template <typename T> struct AtomicSum {
    T *gradient;
    DEVICE void take(int coefficient, T number) const { add_atomically(gradient + coefficient, number); }
};

// ... or written to a row of its own, which holds zeros.
template <typename T> struct OwnRow {
    T *row;
    DEVICE void take(int coefficient, T number) const { row[coefficient] = number; }
};

// Hand the gradient of one sample with respect to a spline layer's coefficients to `sink`: DEGREE + 1 numbers an edge.
template <typename T, int DEGREE, int ORDER, typename Sink>
PART void spread_spline(
    Layer layer, const T *tables, Column<T> z, Column<T> b, Size size, long long *status, Sink sink) {
    for (int p = 0; p < z.width; ++p) {
        const Place<T> place = locate<T, DEGREE>(z(0, p), layer, p, tables, status);
        const Functions<T, DEGREE, ORDER == 0 ? 2 : 3> functions(place, layer[OUTSIDE]);
        const Slopes<T, ORDER> slopes(z, p, size);
        const int edge = layer[COEFFICIENTS] + (p * layer[BASIS] + place.cell) * b.width;
        for (int q = 0; q < b.width; ++q) {
            T r1, r2;
            slopes.pull(b, q, size, r1, r2);
            UNROLL for (int s = 0; s <= DEGREE; ++s) {
                T number = b(0, q) * functions.at[0][s];
                if constexpr (ORDER > 0) number += r1 * functions.at[1][s] + r2 * functions.at[2][s];
                sink.take(edge + s * b.width + q, number);
            }
        }
    }
}

// The same for an affine layer.
template <typename T, typename Sink>
PART void spread_affine(Layer layer, Column<T> z, Column<T> b, Size size, Sink sink) {
    for (int q = 0; q < b.width; ++q) {
        for (int p = 0; p < z.width; ++p) {
            T sum = 0;
            for (int j = 0; j < size.numbers(); ++j) sum += z(j, p) * b(j, q);
            sink.take(layer[COEFFICIENTS] + p * b.width + q, sum);
        }
        if (layer[BIAS]) sink.take(layer[COEFFICIENTS] + z.width * b.width + q, b(0, q));
    }
}
