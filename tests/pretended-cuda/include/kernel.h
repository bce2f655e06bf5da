/* What CUDA C++ has and C++ has not, for kernels that run on the pretended device. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <utility>

#include "machine.h"

/* Kernels declare these types themselves, as CUDA's headers do and not as the system's. */
#define uint64_t kernel_uint64_t
#define int64_t kernel_int64_t

#define __device__
#define __global__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(threads)
#define __align__(bytes) __attribute__((aligned(bytes)))

static Machine *machine;
#define threadIdx (machine->thread_index)
#define blockIdx (machine->block_index)
#define blockDim (machine->block)
#define gridDim (machine->grid)
#define warpSize 32

static inline void __syncthreads() { machine->wait_for_block(); }
static inline void __syncwarp(unsigned = ~0u) { machine->wait_for_lanes(); }

using std::max;
using std::min;

static inline int __dp4a(int a, int b, int sum) {
    for (int byte = 0; byte < 32; byte += 8)
        sum += (signed char)(a >> byte) * (signed char)(b >> byte);
    return sum;
}

static inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}

/* One thread runs at a time, so that a plain exchange is whole. */
template <typename T> T atomicExch(T *place, T value) { return std::exchange(*place, value); }
template <typename T, typename U> T atomicAdd(T *place, U value) {
    return std::exchange(*place, T(*place + value));
}

/* A warp's lanes hand each other values. */
static inline unsigned __activemask() {
    machine->present[machine->warp] = 0;
    machine->wait_for_lanes();
    machine->present[machine->warp] |= 1u << machine->lane;
    machine->wait_for_lanes();
    return machine->present[machine->warp];
}

template <typename T> T from_lane(T value, unsigned lane) {
    static_assert(sizeof(T) <= 8, "a value of a register or two");
    memcpy(&machine->handed[machine->warp][machine->lane], &value, sizeof(T));
    machine->wait_for_lanes();
    memcpy(&value, &machine->handed[machine->warp][lane & 31], sizeof(T));
    machine->wait_for_lanes();
    return value;
}
template <typename T> T __shfl_sync(unsigned, T value, unsigned lane) {
    return from_lane(value, lane);
}
template <typename T> T __shfl_xor_sync(unsigned, T value, unsigned mask) {
    return from_lane(value, machine->lane ^ mask);
}
template <typename T> T __shfl_down_sync(unsigned, T value, unsigned delta) {
    unsigned lane = machine->lane + delta;
    return from_lane(value, lane < 32 ? lane : machine->lane);
}
template <typename T> T __shfl_up_sync(unsigned, T value, unsigned delta) {
    return from_lane(value, machine->lane < delta ? machine->lane : machine->lane - delta);
}

/* Numbers of 16 bits. */
typedef _Float16 __half;
typedef _Float16 half;

/* Products of matrices by a warp. Its first lane has the whole matrix and computes; it waits for nobody,
 * because these functions order no lane's reading and writing: what the others write has to be waited
 * for by the kernel. */
namespace nvcuda {
namespace wmma {
struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
namespace precision {
struct tf32 {};
} // namespace precision
static inline float __float_to_tf32(float value) {
    unsigned bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x1000) & ~0x1fffu;
    memcpy(&value, &bits, sizeof bits);
    return value;
}

template <typename T> struct Stored { typedef T type; };
template <> struct Stored<precision::tf32> { typedef float type; };

template <typename Use, int M, int N, int K> struct Sides;
template <int M, int N, int K> struct Sides<matrix_a, M, N, K> { enum { rows = M, cols = K }; };
template <int M, int N, int K> struct Sides<matrix_b, M, N, K> { enum { rows = K, cols = N }; };
template <int M, int N, int K> struct Sides<accumulator, M, N, K> { enum { rows = M, cols = N }; };

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment : Sides<Use, M, N, K> {
    enum { num_elements = Sides<Use, M, N, K>::rows * Sides<Use, M, N, K>::cols };
    typename Stored<T>::type x[num_elements];
};

/* What the hardware asks of a matrix in memory; it would stop the kernel, or read something else. */
template <typename T> void check_alignment(const T *first, unsigned stride) {
    if ((size_t)first % 32 == 0 && stride * sizeof(T) % 16 == 0) return;
    fprintf(stderr, "a fragment at %p, its rows %u apart, is not aligned\n", (const void *)first,
            stride);
    abort();
}

template <typename F, typename T> void fill_fragment(F &into, T value) {
    for (auto &place : into.x) place = value;
}

template <typename F, typename T>
void load(F &into, const T *from, unsigned stride, layout_t layout) {
    check_alignment(from, stride);
    if (machine->lane == 0)
        for (unsigned row = 0; row < F::rows; row++)
            for (unsigned col = 0; col < F::cols; col++)
                into.x[row * F::cols + col] =
                    layout == mem_row_major ? from[row * stride + col] : from[col * stride + row];
}
template <typename U, int M, int N, int K, typename T>
void load_matrix_sync(fragment<U, M, N, K, T, row_major> &into,
                      const typename Stored<T>::type *from, unsigned stride) {
    load(into, from, stride, mem_row_major);
}
template <typename U, int M, int N, int K, typename T>
void load_matrix_sync(fragment<U, M, N, K, T, col_major> &into,
                      const typename Stored<T>::type *from, unsigned stride) {
    load(into, from, stride, mem_col_major);
}
template <int M, int N, int K, typename T>
void load_matrix_sync(fragment<accumulator, M, N, K, T> &into, const T *from, unsigned stride,
                      layout_t layout) {
    load(into, from, stride, layout);
}

template <int M, int N, int K, typename T>
void store_matrix_sync(T *to, const fragment<accumulator, M, N, K, T> &from, unsigned stride,
                       layout_t layout) {
    check_alignment(to, stride);
    if (machine->lane == 0)
        for (unsigned row = 0; row < M; row++)
            for (unsigned col = 0; col < N; col++)
                to[layout == mem_row_major ? row * stride + col : col * stride + row] =
                    from.x[row * N + col];
}

template <int M, int N, int K, typename A, typename LA, typename B, typename LB, typename C>
__attribute__((optimize("O3"))) void mma_sync(fragment<accumulator, M, N, K, C> &to,
                                              const fragment<matrix_a, M, N, K, A, LA> &a,
                                              const fragment<matrix_b, M, N, K, B, LB> &b,
                                              const fragment<accumulator, M, N, K, C> &c) {
    if (machine->lane != 0) return;
    C columns[K * N], sums[M * N];
    for (int at = 0; at < K * N; at++) columns[at] = C(b.x[at]);
    for (int at = 0; at < M * N; at++) sums[at] = c.x[at];
    for (int row = 0; row < M; row++)
        for (int k = 0; k < K; k++) {
            C factor = C(a.x[row * K + k]);
            for (int col = 0; col < N; col++) sums[row * N + col] += factor * columns[k * N + col];
        }
    for (int at = 0; at < M * N; at++) to.x[at] = sums[at];
}
} // namespace wmma
} // namespace nvcuda

/* Hands a kernel its arguments, each by its place. */
template <typename... Types, size_t... At>
static void call(void (*kernel)(Types...), void **arguments, std::index_sequence<At...>) {
    kernel(*(std::remove_reference_t<Types> *)arguments[At]...);
}
template <typename... Types>
static void call(void (*kernel)(Types...), void **arguments, Machine *on) {
    machine = on;
    call(kernel, arguments, std::index_sequence_for<Types...>{});
}
