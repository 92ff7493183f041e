// The dense-product path: rows of all basis functions of a spline layer's inputs, zeros included.

// Write the functions at `x`, shape (N, P), to `values`, shape (N, P m), and their slopes to `first` where it is set;
// both hold zeros before. The layer is the only one of the table.
template <typename T, int DEGREE> KERNEL fill_basis(PARAMETERS) {
    const Call<T> call = ARGUMENTS;
    const Layer layer{call.layers};
    const int num_inputs = layer[INPUTS], num_basis = layer[BASIS];
    const long long step = static_cast<long long>(num_blocks()) * num_threads();
    EACH_THREAD(t) {
        for (long long i = static_cast<long long>(block_number()) * num_threads() + t; i < call.samples * num_inputs;
             i += step) {
            const int p = static_cast<int>(i % num_inputs);
            const Place<T> place = locate<T, DEGREE>(call.x[i], layer, p, call.tables, call.status);
            const Functions<T, DEGREE, 2> functions(place, layer[OUTSIDE]);
            UNROLL for (int s = 0; s <= DEGREE; ++s) {
                call.values[i * num_basis + place.cell + s] = functions.at[0][s];
                if (call.first) call.first[i * num_basis + place.cell + s] = functions.at[1][s];
            }
        }
    }
}
