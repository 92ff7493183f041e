// The CUDA kernels as plain C++: one block after the other, one thread after the other. Compiled with
// -DREAL=double -DOF_DEGREE=3 -DSOURCE="...", a file with the text of kanmg.evaluators.gpu_source.source().
// With -DREAL_THREADS the threads of a block run together, and wait for each other between phases, as on a GPU.
#ifdef REAL_THREADS
#include <pthread.h>
#include <thread>
#endif
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <vector>

#define DEVICE inline
#define KERNEL void
#ifdef REAL_THREADS
#define PARAMETERS const Call<T> &call
#define EACH_THREAD(t) for (int t = the_thread, fresh = 1; fresh; fresh = 0, wait_for_all())
#else
#define PARAMETERS const Call<T> call
#define EACH_THREAD(t) for (int t##_ = 0, t = turn(0); t##_ < num_threads(); t = turn(++t##_))
#endif
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

#ifdef REAL_THREADS

static thread_local int the_thread, the_phase;
static pthread_barrier_t the_barrier;
static int first_without = 1 << 30;

inline void wait_for_all() {
    if (the_phase++ < first_without) pthread_barrier_wait(&the_barrier);
}

// Threads do not wait after a phase of this number, and later ones: a mistake, for what looks for mistakes.
extern "C" void forget_to_wait(int phase) { first_without = phase; }

inline void report(long long *status, long long layer) {
    long long before = __atomic_load_n(status, __ATOMIC_RELAXED);
    while (before < layer &&
           !__atomic_compare_exchange_n(status, &before, layer, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

template <typename Kernel, typename Argument> void run_block(Kernel kernel, const Argument &call) {
    pthread_barrier_init(&the_barrier, nullptr, the_threads);
    std::vector<std::thread> threads;
    for (int t = 0; t < the_threads; ++t)
        threads.emplace_back([&call, kernel, t] {
            the_thread = t;
            kernel(call);
        });
    for (std::thread &thread : threads) thread.join();
    pthread_barrier_destroy(&the_barrier);
}

#else

inline void report(long long *status, long long layer) { *status = layer > *status ? layer : *status; }

template <typename Kernel, typename Argument> void run_block(Kernel kernel, const Argument &call) { kernel(call); }

#endif

#include SOURCE

// Runs a kernel; returns whether it wrote beyond the end of its shared memory, which begins as NaN.
template <typename Kernel>
int run(Kernel kernel, long long blocks, long long threads, long long bytes, const Call<REAL> &call) {
    const double guard = 12345.678;
    const std::size_t length = (bytes + 7) / 8;
    the_blocks = static_cast<int>(blocks);
    the_threads = static_cast<int>(threads);
    for (the_block = 0; the_block < the_blocks; ++the_block) {
        std::vector<double> memory(length + 64, guard);
        for (std::size_t i = 0; i < length; ++i) memory[i] = std::numeric_limits<double>::quiet_NaN();
        the_memory = memory.data();
        run_block(kernel, call);
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
