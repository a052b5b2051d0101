// The tensor cores and the fast exponential: the only inline PTX. Each instruction has a twin for the emulation (`host/`), where a warp's lanes exchange what they hold.
// Fragments are those of PTX's `mma.m16n8k16` with bf16 operands: lane l has g = l / 4 and t = l % 4.
#pragma once
#include "real.cuh"

// c (16, 8) += a (16, 16) b (16, 8). c[0], c[1] are row g, columns 2t and 2t + 1; c[2], c[3] the same of row g + 8.
__device__ inline void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
#ifdef CUDA_HOST
  cuda_host::mma(c, a, b0, b1);
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Four 8 x 8 matrices of shared memory; lane l points to row l % 8 of matrix l / 8, 16 bytes. Lane l gets columns 2t and 2t + 1 of row g of each.
__device__ inline void load_matrices(uint32_t r[4], const bf16* row) {
#ifdef CUDA_HOST
  cuda_host::load_matrices(r, row, false);
#else
  uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
#endif
}
// The same, transposed: lane l gets rows 2t and 2t + 1 of column g of each.
__device__ inline void load_transposed(uint32_t r[4], const bf16* row) {
#ifdef CUDA_HOST
  cuda_host::load_matrices(r, row, true);
#else
  uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
#endif
}

// 16 bytes of memory into shared memory, or zeros where they are not wanted: there after `wait_copies` and a barrier.
__device__ inline void copy_async(bf16* to, const bf16* from, bool wanted) {
#ifdef CUDA_HOST
  *(uint4*)to = wanted ? *(const uint4*)from : make_uint4(0, 0, 0, 0);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(uint32_t(__cvta_generic_to_shared(to))),
               "l"(__cvta_generic_to_global(from)), "r"(wanted ? 16 : 0)
               : "memory");
#endif
}
// Ends a group of this thread's copies.
__device__ inline void end_copies() {
#ifndef CUDA_HOST
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until all groups of this thread's copies are there but the newest N.
template <int N>
__device__ inline void wait_copies() {
#ifndef CUDA_HOST
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Two values in one register, the first in the lower half.
__device__ inline uint32_t pair(float low, float high) {
  union {
    __nv_bfloat162 v;
    uint32_t u;
  } p;
  p.v = __floats2bfloat162_rn(low, high);
  return p.u;
}

// 2^x, to two units in the last place; results too small for a normal number are 0.
__device__ inline float power_of_two(float x) {
#ifdef CUDA_HOST
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
