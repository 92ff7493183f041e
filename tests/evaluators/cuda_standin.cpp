// The CUDA kernels as plain C++: one block after the other, one thread after the other. Compiled with
// -DREAL=double -DOF_DEGREE=3 -DSOURCE="...", a file with the text of kanmg.evaluators.gpu_source.source().
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#define DEVICE inline
#define PART
#define KERNEL void
#define EACH_THREAD(t) for (int t = 0; t < num_threads(); ++t)
#define UNROLL

static int the_block, the_blocks, the_threads;
static double *the_memory;

inline int block_number() { return the_block; }
inline int num_blocks() { return the_blocks; }
inline int num_threads() { return the_threads; }
inline double *shared_memory() { return the_memory; }

template <typename T> void add_atomically(T *place, T number) { *place += number; }
inline void report(long long *status, long long layer) { *status = layer > *status ? layer : *status; }

#include SOURCE

template <typename... P, std::size_t... I>
void call_with(void (*kernel)(P...), const long long *arguments, std::index_sequence<I...>) {
    kernel((P)(arguments[I])...);
}

// Runs a kernel; returns whether it wrote beyond the end of its shared memory, which begins as NaN.
template <typename... P>
int run(void (*kernel)(P...), long long blocks, long long threads, long long bytes, const long long *arguments) {
    const double guard = 12345.678;
    const std::size_t length = (bytes + 7) / 8;
    the_blocks = static_cast<int>(blocks);
    the_threads = static_cast<int>(threads);
    for (the_block = 0; the_block < the_blocks; ++the_block) {
        std::vector<double> memory(length + 64, guard);
        for (std::size_t i = 0; i < length; ++i) memory[i] = std::numeric_limits<double>::quiet_NaN();
        the_memory = memory.data();
        call_with(kernel, arguments, std::index_sequence_for<P...>{});
        for (std::size_t i = length; i < memory.size(); ++i)
            if (memory[i] != guard) return 1;
    }
    return 0;
}

#define EXPORT(name, ...)                                                                                  \
    extern "C" int name(long long blocks, long long threads, long long bytes, const long long *arguments) { \
        return run(__VA_ARGS__, blocks, threads, bytes, arguments);                                        \
    }

EXPORT(evaluate_0, evaluate<REAL, OF_DEGREE, 0>)
EXPORT(evaluate_2, evaluate<REAL, OF_DEGREE, 2>)
EXPORT(differentiate_0, differentiate<REAL, OF_DEGREE, 0>)
EXPORT(differentiate_2, differentiate<REAL, OF_DEGREE, 2>)
EXPORT(differentiate_rows_0, differentiate_rows<REAL, OF_DEGREE, 0>)
EXPORT(differentiate_rows_2, differentiate_rows<REAL, OF_DEGREE, 2>)
EXPORT(push_forward_0, push_forward<REAL, OF_DEGREE>)
EXPORT(fill_basis_0, fill_basis<REAL, OF_DEGREE>)
EXPORT(merge_0, merge<REAL>)
