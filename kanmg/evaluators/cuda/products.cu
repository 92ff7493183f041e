// The dense-product path: rows of all basis functions of a spline layer's inputs, zeros included.

// Write the functions at `x`, shape (N, P), to `values`, shape (N, P m), and their slopes to `first` where it is set;
// both hold zeros before. The layer is the only one of the table.
template <typename T, int DEGREE> KERNEL fill_basis(PARAMETERS) {
    const Layer layer = layer_of(call, 0);
    const long long num_basis = call.row_stride;
    const long long step = static_cast<long long>(num_blocks()) * num_threads();
    EACH_THREAD(t) {
        for (long long i = static_cast<long long>(block_number()) * num_threads() + t; i < call.samples * layer.inputs;
             i += step) {
            const int p = static_cast<int>(i % layer.inputs);
            const Place<T> place = locate<T, DEGREE>(call.x[i], layer, p, call.tables, call.status);
            Functions<T, DEGREE, 2> functions(place, layer.outside);
            functions.scale(place.inverse);
            UNROLL for (int s = 0; s <= DEGREE; ++s) {
                call.values[i * num_basis + place.cell + s] = functions.at[0][s];
                if (call.first) call.first[i * num_basis + place.cell + s] = functions.at[1][s];
            }
        }
    }
}
