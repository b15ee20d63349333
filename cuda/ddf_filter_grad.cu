// The gradients of both DDF filters, tile by tile, without atomics: every sum has one owner and a fixed order.
//     u = grad[p, c] * x[p + tap, c]     ds[p, tap] = sum_c u * channel[c, tap]     dc[c, tap] = sum_p u * spatial[p, tap]
//   -DDTYPE -DNHWC -DKERNEL_SIZE -DSTRIDE  ddf_types.cuh and ddf_tile.cuh, which the launcher puts before this file
//   -DGRAD_X=0 -DADD=0  under "add" neither filter is read: the launcher passes none, which is a filter of ones
//   -DPIXEL_PAD=16  threads of a warp read pixels seven apart: an odd number of 16-byte words keeps them off each other's banks
//
// A block owns a tile of y of one head of one image and walks through all channels of the head, a chunk of x and of grad
// at a time. The staged chunk is read twice, by threads that own what they sum, so that nothing is exchanged between them:
// first VECTOR channels and a row of taps, over every `slots`-th strip (dc), then a strip and a row of taps, over every
// `parts`-th vector of channels (ds). The shares of slots and parts are added in shared memory; dc leaves one partial sum
// per tile, which ddf_sum_partials adds.
//   shared memory: x [buffers][source_size], grad [buffers][other_size], spatial taps, channel taps [buffers],
//                  shares of dc [slots][TAPS][chunk], shares of ds [parts][units][UNIT_TAPS]

// u at the taps of row i, for STRIP units: the window's row and the gradient, read once.
struct Products {
  Acc window[STRIP_COLUMNS][VECTOR], grad[STRIP][VECTOR];
  FN void read_strip(const Element* x, int x_step, const Element* g, int g_step) {
#pragma unroll
    for (int e = 0; e < STRIP_COLUMNS; ++e) read(window[e], x + e * column_step(), x_step);
#pragma unroll
    for (int e = 0; e < STRIP; ++e) read(grad[e], g + e * column_step(), g_step);
  }
  FN Acc at(int unit, int j, int v) const { return grad[unit][v] * window[unit * STEP + j][v]; }
};

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
ddf_filter_grad(const Tiling p, const Element* __restrict__ grad, const Element* __restrict__ x,
                const Element* __restrict__ channel, const Element* __restrict__ spatial, Element* __restrict__ ds,
                Element* __restrict__ dc, Acc* __restrict__ partial) {
  SHARED_MEMORY(memory);
  const bool want_channel = dc || partial, want_spatial = ds;
  const int chunk = NHWC ? PIXEL_CHANNELS : p.chunk, units = p.rows * p.columns;
  Element* staged = (Element*)memory;
  Element* staged_grad = staged + p.buffers * p.source_size;
  Acc* unit_taps = (Acc*)(staged_grad + p.buffers * p.other_size);
  Acc* weights = unit_taps + (want_channel ? units * UNIT_TAPS : 0);
  Acc* shares_dc = weights + (want_spatial ? p.buffers * TAPS * chunk : 0);
  Acc* shares_ds = shares_dc + (want_channel ? p.slots * TAPS * chunk : 0);

  unsigned block = blockIdx.x;
  const int head = block % p.heads, tile = (block /= p.heads) % p.tiles;
  const i64 n = block / p.tiles;
  const int a0 = tile / p.tiles_across * p.rows, b0 = tile % p.tiles_across * p.columns;
  const int rows_in = (p.rows - 1) * STEP + WINDOW, columns_in = (p.columns - 1) * STEP + WINDOW;
  const int chunks = (p.per_head + chunk - 1) / chunk;
  const int x_shift = shift_of(b0 * STEP + FIRST, p.source_copy), g_shift = shift_of(b0, p.other_copy);
  const int x_step = channel_step(rows_in, p.source_pitch), g_step = channel_step(p.rows, p.other_pitch);

  const auto stage_chunk = [&](int k) {
    const int buffer = k % p.buffers, exist = p.per_head - k * chunk;
    const i64 first = (i64)head * p.per_head + k * chunk;
    Region r = region(x, n, first, exist, p.channels, p.height, p.width);
    r.row = a0 * STEP + FIRST, r.column = b0 * STEP + FIRST, r.rows = rows_in, r.columns = columns_in;
    stage(staged + buffer * p.source_size, r, chunk, p.source_pitch, p.source_copy);
    Region g = region(grad, n, first, exist, p.channels, p.out_height, p.out_width);
    g.row = a0, g.column = b0, g.rows = p.rows, g.columns = p.columns;
    stage(staged_grad + buffer * p.other_size, g, chunk, p.other_pitch, p.other_copy);
    copies_commit();
    if (want_spatial) stage_channel(weights + buffer * TAPS * chunk, channel, p, n, first, chunk, exist);
  };

  for (int k = 0, begun = 0; k < chunks; ++k) {
    for (; begun < min(k + p.buffers, chunks); ++begun) stage_chunk(begun);
    if (k == 0 && want_channel) stage_spatial(unit_taps, spatial, p, n, head, a0, b0);  // while the first chunk travels
    if (begun == k + 1) copies_wait<0>();
    else copies_wait<1>();
    __syncthreads();

    const Element* tile_x = staged + k % p.buffers * p.source_size + x_shift;
    const Element* tile_g = staged_grad + k % p.buffers * p.other_size + g_shift;
    const int left = min(chunk, p.per_head - k * chunk);  // channels that exist
    const int across = p.columns / STRIP, strips = p.rows * across, lanes = chunk / VECTOR;
    Products u;
    if (want_channel) {
      const int roles = lanes * KERNEL_SIZE, own = NHWC ? threadIdx.x % roles : threadIdx.x / p.slots;
      const int slot = NHWC ? threadIdx.x / roles : threadIdx.x % p.slots, i = own / lanes, c = own % lanes * VECTOR;
      if (slot < p.slots && own < roles) {
        Acc sum[KERNEL_SIZE][VECTOR] = {};
        for (int strip = slot; strip < strips; strip += p.slots) {
          const int r = strip / across, b = strip % across * STRIP;
          if (a0 + r >= p.out_height || b0 + b >= p.out_width || c >= left) continue;
          u.read_strip(tile_x + staged_at(r * STEP + i, b * STEP, c, rows_in, p.source_pitch), x_step,
                       tile_g + staged_at(r, b, c, p.rows, p.other_pitch), g_step);
#pragma unroll
          for (int e = 0; e < STRIP; ++e) {
            Acc taps[KERNEL_SIZE];
            read_taps(taps, unit_taps + (r * p.columns + b + e) * UNIT_TAPS + i * TAP_ROW);
#pragma unroll
            for (int j = 0; j < KERNEL_SIZE; ++j)
#pragma unroll
              for (int v = 0; v < VECTOR; ++v) sum[j][v] += u.at(e, j, v) * taps[j];
          }
        }
        Acc* share = shares_dc + (slot * TAPS + i * KERNEL_SIZE) * chunk + c;
#pragma unroll
        for (int j = 0; j < KERNEL_SIZE; ++j)
#pragma unroll
          for (int v = 0; v < VECTOR; ++v) share[j * chunk + v] = sum[j][v];
      }
    }
    if (want_spatial) {
      for (int item = threadIdx.x; item < p.parts * KERNEL_SIZE * strips; item += blockDim.x) {
        const int strip = item % strips, i = item / strips % KERNEL_SIZE, part = item / strips / KERNEL_SIZE;
        const int r = strip / across, b = strip % across * STRIP;
        Acc sum[STRIP][KERNEL_SIZE] = {};
        for (int c = part * VECTOR; c < left; c += p.parts * VECTOR) {
          u.read_strip(tile_x + staged_at(r * STEP + i, b * STEP, c, rows_in, p.source_pitch), x_step,
                       tile_g + staged_at(r, b, c, p.rows, p.other_pitch), g_step);
          Acc weight[KERNEL_SIZE][VECTOR];
          read_weights(weight, weights + (k % p.buffers * TAPS + i * KERNEL_SIZE) * chunk + c, chunk);
#pragma unroll
          for (int e = 0; e < STRIP; ++e)
#pragma unroll
            for (int j = 0; j < KERNEL_SIZE; ++j)
#pragma unroll
              for (int v = 0; v < VECTOR; ++v) sum[e][j] += u.at(e, j, v) * weight[j][v];
        }
        Acc* share = shares_ds + (part * units + r * p.columns + b) * UNIT_TAPS + i * TAP_ROW;
#pragma unroll
        for (int e = 0; e < STRIP; ++e)
#pragma unroll
          for (int j = 0; j < KERNEL_SIZE; ++j) share[e * UNIT_TAPS + j] = k ? share[e * UNIT_TAPS + j] + sum[e][j] : sum[e][j];
      }
    }

    __syncthreads();
    if (want_channel)
      for (int e = threadIdx.x; e < left * TAPS; e += blockDim.x) {
        const Acc* share = shares_dc + e % TAPS * chunk + e / TAPS;
        Acc sum = 0;
        for (int slot = 0; slot < p.slots; ++slot) sum += share[slot * TAPS * chunk];
        const i64 first = (i64)head * p.per_head + k * chunk;
        if (partial) partial[((n * p.tiles + tile) * p.channels + first) * TAPS + e] = sum;
        else dc[(n * p.channels + first) * TAPS + e] = store(sum);
      }
  }

  if (want_spatial)
    for (int e = threadIdx.x; e < units * TAPS; e += blockDim.x) {  // in the order of memory, for whole sectors
      const int tap = NHWC ? e % TAPS : e / units, unit = NHWC ? e / TAPS : e % units;
      const int a = a0 + unit / p.columns, b = b0 + unit % p.columns;
      if (a >= p.out_height || b >= p.out_width) continue;
      const Acc* share = shares_ds + unit * UNIT_TAPS + tap / KERNEL_SIZE * TAP_ROW + tap % KERNEL_SIZE;
      Acc sum = 0;
      for (int part = 0; part < p.parts; ++part) sum += share[part * units * UNIT_TAPS];
      ds[n * p.ds[0] + ((i64)head * TAPS + tap) * p.ds[1] + a * p.ds[2] + b * p.ds[3]] = store(sum);
    }
}
