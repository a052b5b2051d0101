// Kernels for the emulation's own tests: right ones, and ones with the mistakes that it must find.
extern __shared__ float shared[];

template <bool LAST_BARRIER>
__device__ float block_sum(float v) {
  __shared__ float parts[32];
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = v;
  __syncthreads();
  float sum = 0.f;
  for (int w = 0; w < blockDim.x >> 5; w++) sum += parts[w];
  // Without this, a fast warp overwrites `parts` by its next sum while a slow one still reads them.
  if (LAST_BARRIER) __syncthreads();
  return sum;
}

// out[block] = the sums of x and of x + 1, as two digits of base 1024.
extern "C" __global__ void two_sums(const float* x, float* out) {
  float v = x[blockIdx.x * blockDim.x + threadIdx.x];
  float a = block_sum<true>(v), b = block_sum<true>(v + 1.f);
  if (threadIdx.x == blockDim.x - 1) out[blockIdx.x] = a * 1024.f + b;
}
extern "C" __global__ void two_sums_without_barrier(const float* x, float* out) {
  float v = x[blockIdx.x * blockDim.x + threadIdx.x];
  float a = block_sum<false>(v), b = block_sum<false>(v + 1.f);
  if (threadIdx.x == blockDim.x - 1) out[blockIdx.x] = a * 1024.f + b;
}
// Half of the threads wait for the warp, the others for the block.
extern "C" __global__ void deadlock() {
  if (threadIdx.x < 16)
    __syncwarp();
  else
    __syncthreads();
}
extern "C" __global__ void warp_operations(int* out) {
  int l = threadIdx.x;
  out[l] = __shfl_sync(~0u, l, 5);
  out[32 + l] = __shfl_up_sync(~0u, l, 3);
  out[64 + l] = __shfl_down_sync(~0u, l, 3, 16);
  out[96 + l] = int(__ballot_sync(~0u, l % 3 == 0));
  if (l < 8) out[128 + l] = __shfl_xor_sync(0xffu, l, 1);
}
extern "C" __global__ void count(int* at) { atomicAdd(at, 1); }
extern "C" __global__ void add_one(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1.f;
}
extern "C" __global__ void copy(const float* from, float* to, int n) {
  for (int i = threadIdx.x; i < n; i += blockDim.x) to[i] = from[i];
}
extern "C" __global__ void write_at(char* p, long at) { p[at] = 1; }
extern "C" __global__ void write_shared(int at) { shared[at] = 1.f; }
extern "C" __global__ void __launch_bounds__(64) at_most_64() {}
// Every thread reads what its neighbour wrote: with a barrier between, and without.
extern "C" __global__ void neighbours(float* out) {
  shared[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}
extern "C" __global__ void neighbours_without_barrier(float* out) {
  shared[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = shared[(threadIdx.x + 1) % blockDim.x];
}
