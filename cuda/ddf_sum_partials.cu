// The last step of the channel filter's gradient: the partial sums that ddf_filter_grad.cu leaves, one per tile.
//   -DDTYPE  ddf_types.cuh, which the launcher puts before this file

// dc[n, e] = sum over tiles of partial[n, tile, e], e of size elements, always in the same order. In double: a large image
// has thousands of tiles, and this costs nothing beside reading them.
extern "C" __global__ void ddf_sum_partials(
    i64 total, i64 size, i64 tiles, const Acc* __restrict__ partial, Element* __restrict__ dc) {
  const i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const Acc* from = partial + index / size * tiles * size + index % size;
  double sum = 0;
  for (i64 tile = 0; tile < tiles; ++tile) sum += from[tile * size];
  dc[index] = store((Acc)sum);
}
