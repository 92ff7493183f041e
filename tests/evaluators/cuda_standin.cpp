// The CUDA kernels as plain C++: one block after the other, one thread after the other. Compiled with
// -DREAL=double -DOF_DEGREE=3 -DSOURCE="...", a file with the text of kanmg.evaluators.gpu_source.source().
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

#define DEVICE inline
#define KERNEL void
#define PARAMETERS const Call<T> call
#define EACH_THREAD(t) for (int t##_ = 0, t = turn(0); t##_ < num_threads(); t = turn(++t##_))
#define PART
#define UNROLL
#define ROLLED

static int the_block, the_blocks, the_threads, is_reversed;
static int jets_are_shared, theta_is_shared, sums_are_shared;
static double *the_memory;

// Constants of the compiler on a device.
#define JETS_ARE_SHARED jets_are_shared
#define THETA_IS_SHARED theta_is_shared
#define SUMS_ARE_SHARED sums_are_shared

inline int block_number() { return the_block; }
inline int num_blocks() { return the_blocks; }
inline int num_threads() { return the_threads; }
// The number of the thread whose turn it is.
inline int turn(int i) { return is_reversed ? num_threads() - 1 - i : i; }
inline double *shared_memory() { return the_memory; }

template <typename T> void add_far(T *place, T number) { *place += number; }
inline void report(long long *status, long long layer) { *status = layer > *status ? layer : *status; }

#include SOURCE

// Runs a kernel; returns whether it wrote beyond the end of its shared memory, which begins as NaN.
int run(void (*kernel)(const Call<REAL>), long long blocks, long long threads, long long bytes, const Call<REAL> &call) {
    const double guard = 12345.678;
    const std::size_t length = (bytes + 7) / 8;
    the_blocks = static_cast<int>(blocks);
    the_threads = static_cast<int>(threads);
    for (the_block = 0; the_block < the_blocks; ++the_block) {
        std::vector<double> memory(length + 64, guard);
        for (std::size_t i = 0; i < length; ++i) memory[i] = std::numeric_limits<double>::quiet_NaN();
        the_memory = memory.data();
        kernel(call);
        for (std::size_t i = length; i < memory.size(); ++i)
            if (memory[i] != guard) return 1;
    }
    return 0;
}

extern "C" void place(int jets, int theta, int sums) {
    jets_are_shared = jets;
    theta_is_shared = theta;
    sums_are_shared = sums;
}

extern "C" void reverse_threads(int wanted) { is_reversed = wanted; }

#define EXPORT(name, ...)                                                                                       \
    extern "C" int name(long long blocks, long long threads, long long bytes, const Call<REAL> *call) {         \
        return run(__VA_ARGS__, blocks, threads, bytes, *call);                                                 \
    }
#define EXPORT_ALL(name)                                                                                        \
    EXPORT(name##_0, name<REAL, OF_DEGREE, 0>)                                                                  \
    EXPORT(name##_1, name<REAL, OF_DEGREE, 1>)                                                                  \
    EXPORT(name##_2, name<REAL, OF_DEGREE, 2>)                                                                  \
    EXPORT(name##_3, name<REAL, OF_DEGREE, 3>)

EXPORT_ALL(evaluate)
EXPORT_ALL(differentiate)
EXPORT_ALL(differentiate_rows)
EXPORT(push_forward_0, push_forward<REAL, OF_DEGREE>)
EXPORT(fill_basis_0, fill_basis<REAL, OF_DEGREE>)
EXPORT(pull_basis_0, pull_basis<REAL, OF_DEGREE>)
EXPORT(merge_0, merge<REAL>)
