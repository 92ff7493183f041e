// The dense-product path: rows of all basis functions of a spline layer's inputs, zeros included.

// Pairs (sample, input) of a layer, the only one of the table: each thread takes every so many-th.
template <typename T> struct Pairs {
    Layer layer;
    long long number, step;

    DEVICE explicit Pairs(const Call<T> &call)
        : layer(layer_of(call, 0)), number(call.samples * layer.inputs),
          step(static_cast<long long>(num_blocks()) * num_threads()) {}

    DEVICE long long first(int t) const { return static_cast<long long>(block_number()) * num_threads() + t; }
};

// Write the functions at `x`, shape (N, P), to `values`, shape (N, P m), which holds zeros before.
template <typename T, int DEGREE> KERNEL fill_basis(PARAMETERS) {
    const Pairs<T> pairs(call);
    EACH_THREAD(t) {
        for (long long i = pairs.first(t); i < pairs.number; i += pairs.step) {
            const int p = static_cast<int>(i % pairs.layer.inputs);
            const Spot<T> spot = locate(call.x[i], pairs.layer, p, call.tables, call.status);
            const Place<T> place(spot, pairs.layer, p, call.tables, DEGREE);
            const Functions<T, DEGREE, 1> functions(place, pairs.layer.outside);
            T *own = call.values + i * call.row_stride + place.cell;
            UNROLL for (int s = 0; s <= DEGREE; ++s) own[s] = functions.at[0][s];
        }
    }
}

// Multiply adjoints of all functions, `rows` of shape (N, P m), by their slopes at `x`, and add up those of every input:
// adjoints of the inputs, `values` of shape (N, P).
template <typename T, int DEGREE> KERNEL pull_basis(PARAMETERS) {
    const Pairs<T> pairs(call);
    EACH_THREAD(t) {
        for (long long i = pairs.first(t); i < pairs.number; i += pairs.step) {
            const int p = static_cast<int>(i % pairs.layer.inputs);
            const Spot<T> spot = locate(call.x[i], pairs.layer, p, call.tables, call.status);
            const Place<T> place(spot, pairs.layer, p, call.tables, DEGREE);
            const Functions<T, DEGREE, 2> functions(place, pairs.layer.outside);
            const Coefficients<T, DEGREE> own(call.rows + i * call.row_stride + place.cell);
            call.values[i] = contract<T, DEGREE>(own.of, functions.at[1]) * call.tables[pairs.layer.inverse_of(p, place.cell)];
        }
    }
}
