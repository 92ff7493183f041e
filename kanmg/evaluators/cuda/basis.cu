// The basis functions of one input at one point: the cell, and the DEGREE + 1 functions that are not zero there.

// One row of the table of layers; its columns are those of plan.py. The coefficients of the edge from p to q are `row`
// numbers one behind the other, so that the compiler knows how far apart those of one cell are; `row` is odd, so that
// neighbouring edges lie in different banks of the shared memory.
struct Layer {
    int kind, inputs, outputs, row, coefficients, table, table_stride, cells, uniform, outside, bias, number;
    int input_slot, output_slot, sums, sum_row, sum_cell, copies, is_sorted;

    DEVICE explicit Layer(const long long *from)
        : kind(static_cast<int>(from[KIND])), inputs(static_cast<int>(from[INPUTS])),
          outputs(static_cast<int>(from[OUTPUTS])), row(static_cast<int>(from[BASIS])),
          coefficients(static_cast<int>(from[COEFFICIENTS])), table(static_cast<int>(from[TABLE])),
          table_stride(static_cast<int>(from[TABLE_STRIDE])), cells(static_cast<int>(from[CELLS])),
          uniform(static_cast<int>(from[UNIFORM])), outside(static_cast<int>(from[OUTSIDE])),
          bias(static_cast<int>(from[BIAS])), number(static_cast<int>(from[NUMBER])),
          input_slot(static_cast<int>(from[INPUT_SLOT])), output_slot(static_cast<int>(from[OUTPUT_SLOT])),
          sums(static_cast<int>(from[SUMS])), sum_row(static_cast<int>(from[SUM_ROW])),
          sum_cell(static_cast<int>(from[SUM_CELL])), copies(static_cast<int>(from[COPIES])),
          is_sorted(static_cast<int>(from[IS_SORTED])) {}

    DEVICE int size() const { return kind == AFFINE ? (inputs + bias) * outputs : inputs * outputs * row; }
    DEVICE int edge(int p, int q) const { return coefficients + (p * outputs + q) * row; }

    // Where a copy of the sums of an edge begins in the block's memory, and how long a copy of all of them is.
    DEVICE int edge_sums(int copy, int p, int q) const {
        return sums + ((copy * inputs + p) * outputs + q) * sum_row;
    }
    DEVICE int num_sums() const { return kind == AFFINE ? size() : inputs * outputs * sum_row; }

    // Where the table of an input begins: the ends of the interval, then 1 over the length of the cells and the polynomials
    // of them all, or the breakpoints, and for every cell 1 over its length and its polynomials: (power, function).
    DEVICE int table_of(int p) const { return table + p * table_stride; }
    DEVICE int inverse_of(int p, int cell) const { return table_of(p) + (uniform ? 2 : cells + 3 + cell); }
    DEVICE int powers_of(int p, int cell, int degree) const {
        return table_of(p) + 3 + (uniform ? 0 : 2 * cells + cell * (degree + 1) * (degree + 1));
    }
};

// Where a point of one input of a spline layer lies, as it is kept: its cell, and t, which is 0 at the left end of the cell
// and 1 at the right one. Outside, where the policy is not EXTEND: -1 - the end cell, and how far outside, in cells.
template <typename T> struct Spot {
    int cell;
    T t;

    DEVICE bool is_outside() const { return cell < 0; }
    DEVICE int own_cell() const { return is_outside() ? -1 - cell : cell; }
};

// Find the cell that holds x: the last whose left end is not beyond it. Outside, and for NaN, an end cell.
template <typename T> DEVICE int find_cell(T x, const T *breakpoints, int num_cells) {
    int low = 0, high = num_cells;
    ROLLED while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (x >= breakpoints[middle]) low = middle;
        else high = middle;
    }
    return low;
}

// NaN counts as inside.
template <typename T>
DEVICE Spot<T> locate(T x, const Layer &layer, int p, const T *tables, long long *status) {
    const T *table = tables + layer.table_of(p);
    const int num_cells = layer.cells;
    if (layer.outside != EXTEND) {
        const T left = table[0], right = table[1];
        if (x < left || x > right) {
            if (layer.outside == ERROR) report(status, layer.number);
            const int cell = x < left ? 0 : num_cells - 1;
            const T excess = (x - (x < left ? left : right)) * tables[layer.inverse_of(p, cell)];
            if (excess != 0) return Spot<T>{-1 - cell, excess};  // its sign tells which end it is, if it is not rounded to 0
        }
    }
    if (layer.uniform) {
        const T u = (x - table[0]) * table[2];
        const int cell = u > 0 ? (u < num_cells - 1 ? static_cast<int>(u) : num_cells - 1) : 0;
        return Spot<T>{cell, u - cell};
    }
    const T *breakpoints = table + 2;
    const int cell = find_cell(x, breakpoints, num_cells);
    return Spot<T>{cell, (x - breakpoints[cell]) * tables[layer.inverse_of(p, cell)]};
}

// What basis functions are evaluated from.
template <typename T> struct Place {
    int cell;
    T t;
    T excess;         // how far the point lies outside, in cells, where the policy is not EXTEND
    const T *powers;  // the polynomials of the cell; null for those of Cardinal

    DEVICE Place(const Spot<T> &spot, const Layer &layer, int p, const T *tables, int degree)
        : cell(spot.own_cell()), t(spot.t), excess(0), powers(nullptr) {
        if (spot.is_outside()) {
            excess = spot.t;
            t = excess < 0 ? T(0) : T(1);
        }
        if (layer.uniform != CARDINAL) powers = tables + layer.powers_of(p, cell, degree);
    }
};

// Power coefficients of the uniform B-splines on a cell of length one and of their derivatives, (derivative, power,
// function), known to the compiler:
//     B^k_s(t) = ((t + k - s) B^{k-1}_{s-1}(t) + (1 + s - t) B^{k-1}_s(t)) / k,
// the recursion of Cox and de Boor with the knots at integers.
template <int DEGREE, int LEVELS> struct Cardinal {
    double at[LEVELS][DEGREE + 1][DEGREE + 1];

    DEVICE constexpr Cardinal() : at{} {
        auto &powers = at[0];
        powers[0][0] = 1;
        for (int k = 1; k <= DEGREE; ++k) {
            // Downwards, because a number depends on those of lower powers and functions.
            for (int s = k; s >= 0; --s) {
                for (int j = k; j >= 0; --j) {
                    double sum = (1 + s) * powers[j][s];
                    if (s > 0) sum += (k - s) * powers[j][s - 1];
                    if (s > 0 && j > 0) sum += powers[j - 1][s - 1];
                    if (j > 0) sum -= powers[j - 1][s];
                    powers[j][s] = sum / k;
                }
            }
        }
        for (int level = 1; level < LEVELS; ++level)
            for (int j = 0; j < DEGREE; ++j)
                for (int s = 0; s <= DEGREE; ++s) at[level][j][s] = (j + 1) * at[level - 1][j + 1][s];
    }
};

// Horner's rule for the polynomials of a table and their derivatives. Not inlined, and with loops: knots that are not
// uniform are rare, and a copy of this in every place that needs basis functions would take long to compile.
template <typename T, int DEGREE, int LEVELS> PART void fill_from_table(const T *powers, T t, T *all) {
    ROLLED for (int s = 0; s <= DEGREE; ++s) {
        T sums[LEVELS] = {};
        ROLLED for (int power = DEGREE; power >= 0; --power) {
            UNROLL for (int level = LEVELS - 1; level > 0; --level) sums[level] = t * sums[level] + level * sums[level - 1];
            sums[0] = t * sums[0] + powers[power * (DEGREE + 1) + s];
        }
        UNROLL for (int level = 0; level < LEVELS; ++level) all[level * (DEGREE + 1) + s] = sums[level];
    }
}

// The basis functions at a point and their first LEVELS - 1 derivatives by t, the coordinate in the cell.
template <typename T, int DEGREE, int LEVELS> struct Functions {
    T at[LEVELS][DEGREE + 1];

    DEVICE Functions(const Place<T> &place, int outside) {
        if (place.powers) from_table(place);
        else from_constants(place);
        if (place.excess != 0) leave(place, outside);
    }

    DEVICE void from_constants(const Place<T> &place) {
        constexpr Cardinal<DEGREE, LEVELS> cardinal;
        UNROLL for (int level = 0; level < LEVELS; ++level) {
            UNROLL for (int s = 0; s <= DEGREE; ++s) {
                const int top = DEGREE > level ? DEGREE - level : 0;
                T sum = static_cast<T>(cardinal.at[level][top][s]);
                UNROLL for (int j = DEGREE - 1; j >= 0; --j)
                    if (j < top) sum = place.t * sum + static_cast<T>(cardinal.at[level][j][s]);
                at[level][s] = sum;
            }
        }
    }

    DEVICE void from_table(const Place<T> &place) {
        T all[LEVELS * (DEGREE + 1)];
        fill_from_table<T, DEGREE, LEVELS>(place.powers, place.t, all);
        UNROLL for (int level = 0; level < LEVELS; ++level)
            UNROLL for (int s = 0; s <= DEGREE; ++s) at[level][s] = all[level * (DEGREE + 1) + s];
    }

    // Outside the interval: zero, the value at the end, or the tangent there.
    DEVICE void leave(const Place<T> &place, int outside) {
        if (outside == LINEAR) {
            T slopes[DEGREE + 1];
            if constexpr (LEVELS > 1) {
                UNROLL for (int s = 0; s <= DEGREE; ++s) slopes[s] = at[1][s];
            } else {
                Place<T> end = place;
                end.excess = 0;
                const Functions<T, DEGREE, 2> both(end, outside);
                UNROLL for (int s = 0; s <= DEGREE; ++s) slopes[s] = both.at[1][s];
            }
            UNROLL for (int s = 0; s <= DEGREE; ++s) at[0][s] += place.excess * slopes[s];
        }
        if (outside == ZERO) {
            UNROLL for (int s = 0; s <= DEGREE; ++s) at[0][s] = 0;
        }
        UNROLL for (int level = 1; level < LEVELS; ++level) {
            if (level > 1 || outside != LINEAR) {
                UNROLL for (int s = 0; s <= DEGREE; ++s) at[level][s] = 0;
            }
        }
    }
};

// Add to a number the coefficients of one edge that count in a cell times the functions of one level.
template <typename T, int DEGREE>
DEVICE T contract(const T (&coefficients)[DEGREE + 1], const T (&functions)[DEGREE + 1], T sum = 0) {
    UNROLL for (int s = 0; s <= DEGREE; ++s) sum += coefficients[s] * functions[s];
    return sum;
}

template <typename T, int DEGREE> struct Coefficients {
    T of[DEGREE + 1];

    DEVICE explicit Coefficients(const T *first) {
        UNROLL for (int s = 0; s <= DEGREE; ++s) of[s] = first[s];
    }
};
