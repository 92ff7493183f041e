// The basis functions of one input at one point: the cell, and the DEGREE + 1 functions that are not zero there.

// One row of the table of layers; its columns are those of plan.py.
struct Layer {
    const long long *row;
    DEVICE int operator[](int column) const { return static_cast<int>(row[column]); }
};

// A point of one input of a spline layer: its cell and where it lies in it.
template <typename T> struct Place {
    int cell;
    T t;              // 0 at the left end of the cell, 1 at the right one
    T inverse;        // 1 over the length of the cell
    T excess;         // how far the point lies outside, where the policy is not EXTEND
    const T *powers;  // the polynomials of the cell: (power, function)
};

// Find the cell that holds x: the last whose left end is not beyond it. Outside, and for NaN, an end cell.
template <typename T> DEVICE int find_cell(T x, const T *breakpoints, int num_cells) {
    int low = 0, high = num_cells;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (x >= breakpoints[middle]) low = middle;
        else high = middle;
    }
    return low;
}

template <typename T, int DEGREE>
DEVICE Place<T> locate(T x, Layer layer, int p, const T *tables, long long *status) {
    const T *table = tables + layer[TABLE] + p * layer[TABLE_STRIDE];
    const int num_cells = layer[CELLS], outside = layer[OUTSIDE];
    const T left = table[0], right = table[1];
    T inside = x;
    if (outside != EXTEND && (x < left || x > right)) {
        inside = x < left ? left : right;
        if (outside == ERROR) report(status, layer[NUMBER]);
    }
    Place<T> place;
    if (layer[UNIFORM]) {
        place.inverse = table[2];
        const T u = (inside - left) * place.inverse;
        place.cell = u > 0 ? (u < num_cells - 1 ? static_cast<int>(u) : num_cells - 1) : 0;
        place.t = u - place.cell;
        place.powers = table + 3;
    } else {
        const T *breakpoints = table + 2;
        place.cell = find_cell(inside, breakpoints, num_cells);
        place.inverse = breakpoints[num_cells + 1 + place.cell];
        place.t = (inside - breakpoints[place.cell]) * place.inverse;
        place.powers = breakpoints + 2 * num_cells + 1 + place.cell * (DEGREE + 1) * (DEGREE + 1);
    }
    place.excess = x - inside;  // NaN for NaN, which counts as inside below
    return place;
}

// The basis functions at a point and their first LEVELS - 1 derivatives. Two levels at least: the tangent outside the
// interval needs slopes.
template <typename T, int DEGREE, int LEVELS> struct Functions {
    T at[LEVELS][DEGREE + 1];

    DEVICE Functions(const Place<T> &place, int outside) {
        UNROLL for (int s = 0; s <= DEGREE; ++s) {
            // Horner's rule for a polynomial and its Taylor coefficients.
            UNROLL for (int level = 1; level < LEVELS; ++level) at[level][s] = 0;
            at[0][s] = place.powers[DEGREE * (DEGREE + 1) + s];
            UNROLL for (int power = DEGREE - 1; power >= 0; --power) {
                UNROLL for (int level = LEVELS - 1; level > 0; --level)
                    at[level][s] = place.t * at[level][s] + at[level - 1][s];
                at[0][s] = place.t * at[0][s] + place.powers[power * (DEGREE + 1) + s];
            }
        }
        const bool is_outside = place.excess < 0 || place.excess > 0;
        T scale = 1;
        UNROLL for (int level = 1; level < LEVELS; ++level) {
            scale *= level * place.inverse;
            const T factor = !is_outside ? scale : (level == 1 && outside == LINEAR ? scale : T(0));
            UNROLL for (int s = 0; s <= DEGREE; ++s) at[level][s] *= factor;
        }
        if (is_outside) {
            const T factor = outside == ZERO ? T(0) : T(1);
            UNROLL for (int s = 0; s <= DEGREE; ++s) at[0][s] = factor * at[0][s] + place.excess * at[1][s];
        }
    }
};

// Contract the coefficients of one edge, `step` apart, with the functions of one level.
template <typename T, int DEGREE>
DEVICE T contract(const T *coefficients, int step, const T (&functions)[DEGREE + 1]) {
    T sum = 0;
    UNROLL for (int s = 0; s <= DEGREE; ++s) sum += coefficients[s * step] * functions[s];
    return sum;
}
