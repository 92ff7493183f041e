// One sample: where its jets are, what is read for it and written for it.

// The jets of one sample: those of all layers' inputs and of the last layer's outputs; where nothing goes backwards, those of
// the layer at hand alone.
template <typename T, int D> struct Sample {
    const Call<T> &call;
    T *first;
    int *keys;
    int n;  // in the tile

    DEVICE Sample(const Call<T> &call, T *jets, int *keys, int n) : call(call), first(jets + n), keys(keys + n), n(n) {}

    DEVICE Column<T, D> column(int slot) const {
        return Column<T, D>{first + slot * (NUMBERS<D> * STRIDE), keys + slot * KEY_STRIDE, n};
    }
    DEVICE Column<T, D> inputs(const Layer &layer) const { return column(layer.input_slot); }
    DEVICE Column<T, D> outputs(const Layer &layer) const { return column(layer.output_slot); }
};

template <typename T> DEVICE Layer layer_of(const Call<T> &call, int number) {
    return Layer(call.layers + number * NUM_FIELDS);
}

template <typename T> DEVICE Layer last_layer(const Call<T> &call) {
    return layer_of(call, static_cast<int>(call.num_layers) - 1);
}

// Where something of direction d, sample n and column i is in an array of shape (directions, all samples, width).
template <typename T> DEVICE long long place_of(const Call<T> &call, int d, long long n, int width, int i) {
    return (d * call.all_samples + n) * width + i;
}

// Find the cells of the values p0, ..., p0 + count - 1 that go into a layer, if it is a spline layer, and take their
// derivatives in units of these cells.
template <typename T, int D> DEVICE void settle(const Sample<T, D> &sample, int number, int p0, int count) {
    const Call<T> &call = sample.call;
    if (number == call.num_layers) return;
    const Layer layer = layer_of(call, number);
    if (layer.kind == AFFINE) return;
    const Column<T, D> z = sample.inputs(layer);
    ROLLED for (int p = p0; p < p0 + count; ++p) {
        const Spot<T> spot = locate(z(0, p), layer, p, call.tables, call.status);
        z.put(p, spot);
        if constexpr (D > 0) {
            const T inverse = call.tables[layer.inverse_of(p, spot.own_cell())];
            UNROLL for (int j = 1; j < NUMBERS<D>; ++j) z(j, p) *= inverse;
        }
    }
}

// Write the jet of input p of the network.
template <typename T, int D> DEVICE void begin(const Sample<T, D> &sample, const Layer &layer, long long n, int p) {
    const Call<T> &call = sample.call;
    const Column<T, D> z = sample.inputs(layer);
    z(0, p) = call.x[n * layer.inputs + p];
    UNROLL for (int d = 0; d < D; ++d) {
        const long long own = place_of(call, d, n, layer.inputs, p);
        z(1 + d, p) = call.own_lines ? call.own_lines[own] : call.lines[d * layer.inputs + p];
        z(1 + D + d, p) = call.curvatures ? call.curvatures[own] : T(0);
    }
    settle(sample, 0, p, 1);
}

template <typename T, int D> DEVICE void write_jets(const Sample<T, D> &sample, const Layer &last, long long n) {
    const Call<T> &call = sample.call;
    const Column<T, D> y = sample.outputs(last);
    for (int q = 0; q < last.outputs; ++q) {
        if (call.values) call.values[n * last.outputs + q] = y(0, q);
        UNROLL for (int d = 0; d < D; ++d) {
            const long long own = place_of(call, d, n, last.outputs, q);
            if (call.first) call.first[own] = y(1 + d, q);
            if (call.second) call.second[own] = y(1 + D + d, q);
        }
    }
}

// Weighted squared error of one sample; with `wants_adjoint` its derivatives replace the values.
template <typename T, int D>
DEVICE double compare(const Sample<T, D> &sample, const Layer &last, long long n, bool wants_adjoint) {
    const Call<T> &call = sample.call;
    const Column<T, D> y = sample.outputs(last);
    const T weight = call.weights ? call.weights[n] : T(1);
    double loss = 0;
    for (int q = 0; q < last.outputs; ++q) {
        const T error = y(0, q) - call.targets[n * last.outputs + q];
        loss += static_cast<double>(weight * error) * static_cast<double>(error);
        if (wants_adjoint) y(0, q) = 2 * weight * error;
    }
    return loss;
}

// Replace the jets of the values by their cotangents; those that are not given are zero.
template <typename T, int D> DEVICE void seed(const Sample<T, D> &sample, const Layer &last, long long n) {
    const Call<T> &call = sample.call;
    const Column<T, D> b = sample.outputs(last);
    for (int q = 0; q < last.outputs; ++q) {
        b(0, q) = call.cotangents ? call.cotangents[n * last.outputs + q] : T(0);
        UNROLL for (int d = 0; d < D; ++d) {
            const long long own = place_of(call, d, n, last.outputs, q);
            b(1 + d, q) = call.first_cotangents ? call.first_cotangents[own] : T(0);
            b(1 + D + d, q) = call.second_cotangents ? call.second_cotangents[own] : T(0);
        }
    }
}

template <typename T, int D>
DEVICE void write_point_gradient(const Sample<T, D> &sample, const Layer &layer, long long n) {
    const Column<T, D> a = sample.inputs(layer);
    for (int p = 0; p < layer.inputs; ++p) sample.call.point_gradients[n * layer.inputs + p] = a(0, p);
}

// Compute the jets of `count` outputs of a layer from q0 on.
template <typename T, int DEGREE, int D>
DEVICE void forward(const Sample<T, D> &sample, const Layer &layer, const T *theta, int q0, int count) {
    const Call<T> &call = sample.call;
    const Column<T, D> z = sample.inputs(layer), y = sample.outputs(layer);
    if (layer.kind == AFFINE) forward_affine<T, D>(layer, theta, z, y, q0, count);
    else if (count == GROUP<D>) forward_spline<T, DEGREE, D, true>(layer, theta, call.tables, z, y, q0, count);
    else forward_spline<T, DEGREE, D, false>(layer, theta, call.tables, z, y, q0, count);
}

// Replace the jet of an input of a layer by its adjoint.
template <typename T, int DEGREE, int D>
DEVICE void pull(const Sample<T, D> &sample, const Layer &layer, const T *theta, int p) {
    const Call<T> &call = sample.call;
    const Column<T, D> z = sample.inputs(layer), b = sample.outputs(layer);
    if (layer.kind == AFFINE) pull_affine<T, D>(layer, theta, z, b, p);
    else pull_spline<T, DEGREE, D>(layer, theta, call.tables, z, b, p);
}

// Write the gradient with respect to the coefficients of an input; the bias counts as an input.
template <typename T, int DEGREE, int D>
DEVICE void write_gradient(const Sample<T, D> &sample, const Layer &layer, int p, const Row<T> &to) {
    const Call<T> &call = sample.call;
    const Column<T, D> z = sample.inputs(layer), b = sample.outputs(layer);
    if (layer.kind == AFFINE) write_affine<T, D>(layer, z, b, p, to);
    else write_spline<T, DEGREE, D>(layer, call.tables, z, b, p, to);
}

// Add to the first derivatives of some outputs what a change of the layer's own coefficients gives.
template <typename T, int DEGREE>
DEVICE void add_change(const Sample<T, 1> &sample, const Layer &layer, int q0, int count) {
    const Call<T> &call = sample.call;
    const Column<T, 1> z = sample.inputs(layer), y = sample.outputs(layer);
    for (int q = q0; q < q0 + count; ++q) {
        T sum = 0;
        if (layer.kind == AFFINE) {
            const T *own = call.tangent + layer.coefficients + q;
            sum = layer.bias ? own[layer.inputs * layer.outputs] : T(0);
            for (int p = 0; p < layer.inputs; ++p) sum += own[p * layer.outputs] * z(0, p);
        } else {
            ROLLED for (int p = 0; p < layer.inputs; ++p) {
                const Place<T> place(z.spot(p), layer, p, call.tables, DEGREE);
                const Functions<T, DEGREE, 1> functions(place, layer.outside);
                const Coefficients<T, DEGREE> own(call.tangent + layer.edge(p, q) + place.cell);
                sum += contract<T, DEGREE>(own.of, functions.at[0]);
            }
        }
        y(1, q) += sum;
    }
}
