// One sample through the whole network, forwards and backwards. Written for one thread; no other thread is needed.

// Where the jets of one sample are: those of all layers' inputs and of the last layer's outputs, one behind the other.
template <typename T> struct Sample {
    const Call<T> &call;
    T *first;
    int stride;
    Size size;

    DEVICE Sample(const Call<T> &call, T *first, int stride)
        : call(call), first(first), stride(stride),
          size{static_cast<int>(call.directions), static_cast<int>(call.order)} {}

    DEVICE Layer layer(int number) const { return Layer{call.layers + number * NUM_FIELDS}; }

    DEVICE Column<T> inputs(int number) const {
        const Layer own = layer(number);
        return Column<T>{first + own[WIDTHS_BEFORE] * size.numbers() * stride, stride, own[INPUTS]};
    }

    DEVICE Column<T> outputs(int number) const {
        const Layer own = layer(number);
        return Column<T>{first + (own[WIDTHS_BEFORE] + own[INPUTS]) * size.numbers() * stride, stride, own[OUTPUTS]};
    }

    DEVICE Column<T> values() const { return outputs(static_cast<int>(call.num_layers) - 1); }
};

// Write the jets of the network's inputs.
template <typename T> DEVICE void begin(const Sample<T> &sample, long long n) {
    const Call<T> &call = sample.call;
    const Column<T> z = sample.inputs(0);
    for (int p = 0; p < z.width; ++p) {
        z(0, p) = call.x[n * z.width + p];
        for (int d = 0; d < sample.size.directions; ++d) {
            const long long own = (d * call.samples + n) * z.width + p;
            z(1 + d, p) = call.own_lines ? call.own_lines[own] : call.lines[d * z.width + p];
            if (sample.size.order == 2) z(sample.size.second(d), p) = call.curvatures ? call.curvatures[own] : T(0);
        }
    }
}

template <typename T, int DEGREE, int ORDER> DEVICE void forward(const Sample<T> &sample, long long n) {
    const Call<T> &call = sample.call;
    begin(sample, n);
    for (int number = 0; number < call.num_layers; ++number) {
        const Layer layer = sample.layer(number);
        const Column<T> z = sample.inputs(number), y = sample.outputs(number);
        if (layer[KIND] == AFFINE) forward_affine(layer, call.theta, z, y, sample.size);
        else forward_spline<T, DEGREE, ORDER>(layer, call.theta, call.tables, z, y, sample.size, call.status);
    }
}

template <typename T> DEVICE void write_jets(const Sample<T> &sample, long long n) {
    const Call<T> &call = sample.call;
    const Column<T> y = sample.values();
    for (int q = 0; q < y.width; ++q) {
        if (call.values) call.values[n * y.width + q] = y(0, q);
        for (int d = 0; d < sample.size.directions; ++d) {
            const long long place = (d * call.samples + n) * y.width + q;
            if (call.first) call.first[place] = y(1 + d, q);
            if (call.second) call.second[place] = y(sample.size.second(d), q);
        }
    }
}

// Weighted squared error of one sample; with `wants_adjoint` its derivatives replace the values.
template <typename T> DEVICE double compare(const Sample<T> &sample, long long n, bool wants_adjoint) {
    const Call<T> &call = sample.call;
    const Column<T> y = sample.values();
    const T weight = call.weights ? call.weights[n] : T(1);
    double loss = 0;
    for (int q = 0; q < y.width; ++q) {
        const T error = y(0, q) - call.targets[n * y.width + q];
        loss += static_cast<double>(weight * error) * static_cast<double>(error);
        if (wants_adjoint) y(0, q) = 2 * weight * error;
    }
    return loss;
}

// Replace the jets of the values by their cotangents; those that are not given are zero.
template <typename T> DEVICE void seed(const Sample<T> &sample, long long n) {
    const Call<T> &call = sample.call;
    const Column<T> b = sample.values();
    for (int q = 0; q < b.width; ++q) {
        b(0, q) = call.cotangents ? call.cotangents[n * b.width + q] : T(0);
        for (int d = 0; d < sample.size.directions; ++d) {
            const long long place = (d * call.samples + n) * b.width + q;
            b(1 + d, q) = call.first_cotangents ? call.first_cotangents[place] : T(0);
            if (sample.size.order == 2)
                b(sample.size.second(d), q) = call.second_cotangents ? call.second_cotangents[place] : T(0);
        }
    }
}

// Replace the jets of a layer's inputs by their adjoints.
template <typename T, int DEGREE, int ORDER> DEVICE void pull(const Sample<T> &sample, int number) {
    const Call<T> &call = sample.call;
    const Layer layer = sample.layer(number);
    const Column<T> z = sample.inputs(number), b = sample.outputs(number);
    if (layer[KIND] == AFFINE) pull_affine(layer, call.theta, z, b, sample.size);
    else pull_spline<T, DEGREE, ORDER>(layer, call.theta, call.tables, z, b, sample.size, call.status);
}

template <typename T, int DEGREE, int ORDER, typename Sink>
DEVICE void spread(const Sample<T> &sample, int number, Sink sink) {
    const Call<T> &call = sample.call;
    const Layer layer = sample.layer(number);
    const Column<T> z = sample.inputs(number), b = sample.outputs(number);
    if (layer[KIND] == AFFINE) spread_affine(layer, z, b, sample.size, sink);
    else spread_spline<T, DEGREE, ORDER>(layer, call.tables, z, b, sample.size, call.status, sink);
}

template <typename T> DEVICE void write_point_gradient(const Sample<T> &sample, long long n) {
    const Column<T> a = sample.inputs(0);
    for (int p = 0; p < a.width; ++p) sample.call.point_gradients[n * a.width + p] = a(0, p);
}

// The derivative of one sample's values along a direction of the coefficients: the numbers 0 and 1 of a jet, to which
// every layer adds what the change of its own coefficients gives.
template <typename T, int DEGREE> DEVICE void forward_tangent(const Sample<T> &sample, long long n) {
    const Call<T> &call = sample.call;
    const Size one{1, 1};
    const Column<T> x = sample.inputs(0);
    for (int p = 0; p < x.width; ++p) {
        x(0, p) = call.x[n * x.width + p];
        x(1, p) = 0;
    }
    for (int number = 0; number < call.num_layers; ++number) {
        const Layer layer = sample.layer(number);
        const Column<T> z = sample.inputs(number), y = sample.outputs(number);
        const T *change = call.tangent + layer[COEFFICIENTS];
        if (layer[KIND] == AFFINE) {
            forward_affine(layer, call.theta, z, y, one);
            for (int q = 0; q < y.width; ++q) {
                T sum = layer[BIAS] ? change[z.width * y.width + q] : T(0);
                for (int p = 0; p < z.width; ++p) sum += change[p * y.width + q] * z(0, p);
                y(1, q) += sum;
            }
            continue;
        }
        forward_spline<T, DEGREE, 2>(layer, call.theta, call.tables, z, y, one, call.status);
        for (int p = 0; p < z.width; ++p) {
            const Place<T> place = locate<T, DEGREE>(z(0, p), layer, p, call.tables, call.status);
            const Functions<T, DEGREE, 2> functions(place, layer[OUTSIDE]);
            const T *edge = change + (p * layer[BASIS] + place.cell) * y.width;
            for (int q = 0; q < y.width; ++q) y(1, q) += contract<T, DEGREE>(edge + q, y.width, functions.at[0]);
        }
    }
}
