// The last step of ddf_branches.cu, where an image has more than one tile: the mean from the tiles' sums.
//   -DDTYPE  ddf_types.cuh, which the launcher puts before this file

// pooled[n, c] = sum over tiles of partial[n, tile, c] / area, always in the same order. A block has 32 channels of an image
// and each of its warps a share of the tiles: one thread alone would read the thousands of a large image one by one. In
// double, which costs nothing beside reading.
extern "C" __global__ void ddf_branches_mean(
    i64 channels, i64 tiles, i64 area, const Acc* __restrict__ partial, Element* __restrict__ pooled) {
  SHARED_MEMORY(memory);
  double* shares = (double*)memory;
  const i64 across = (channels + 31) / 32, n = blockIdx.x / across, c = blockIdx.x % across * 32 + threadIdx.x % 32;
  double sum = 0;
  for (i64 tile = threadIdx.x / 32; c < channels && tile < tiles; tile += blockDim.x / 32)
    sum += partial[(n * tiles + tile) * channels + c];
  shares[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= 32 || c >= channels) return;
  for (int i = 1; i < blockDim.x / 32; ++i) sum += shares[i * 32 + threadIdx.x];
  pooled[n * channels + c] = store((Acc)(sum / area));
}
