// What differs between a GPU and a C++ compiler. Everything else is plain C++: the same sources are compiled by NVRTC,
// and by any C++17 compiler, which defines the functions below one block at a time (tests/evaluators/cuda_standin.cpp).
//
// A kernel is a sequence of phases. Inside a phase, no thread reads what another one writes; between two phases all
// threads of the block wait for each other. `EACH_THREAD(t) { ... }` is a phase: on a GPU every thread runs it once, in
// plain C++ a loop runs it for all threads, one after the other. What a thread keeps from one phase to the next lies in
// memory, not in variables.
#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
// Compiled once, however many places call it.
#define PART __device__ __noinline__
// Loops that stay loops.
#define ROLLED _Pragma("unroll 1")
#define KERNEL __global__ void __launch_bounds__(MAX_THREADS)
// Kernels read their argument where it lies, without a copy of their own.
#define PARAMETERS const __grid_constant__ Call<T> call
#define EACH_THREAD(t) for (int t = threadIdx.x, fresh = 1; fresh; fresh = 0, __syncthreads())
#define UNROLL _Pragma("unroll")

DEVICE int block_number() { return blockIdx.x; }
DEVICE int num_blocks() { return gridDim.x; }
DEVICE int num_threads() { return blockDim.x; }

// The dynamic shared memory of the block.
DEVICE double *shared_memory() {
    extern __shared__ __align__(16) double memory[];
    return memory;
}

// Add to a number in global memory without waiting for it. What one thread adds to one number is added in its order.
DEVICE void add_far(double *place, double number) {
    asm volatile("red.global.add.f64 [%0], %1;" ::"l"(__cvta_generic_to_global(place)), "d"(number) : "memory");
}
DEVICE void add_far(float *place, float number) {
    asm volatile("red.global.add.f32 [%0], %1;" ::"l"(__cvta_generic_to_global(place)), "f"(number) : "memory");
}

DEVICE void report(long long *status, long long layer) { atomicMax(status, layer); }

#endif
