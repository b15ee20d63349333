// DDF forward and the gradient of x, tile by tile.
//   -DDTYPE -DNHWC -DKERNEL_SIZE -DSTRIDE -DGRAD_X  ddf_types.cuh and ddf_tile.cuh, which the launcher puts before this file
//   -DADD=1 the filters are added   0 multiplied
//
// A block owns a tile of units of one head of one image and walks through some of its channels, a chunk at a time: the
// chunk and its halo travel to shared memory by asynchronous copies, the spatial taps of the tile stay there. A thread then
// makes strips: VECTOR channels of STRIP units, one row of taps at a time, so that it holds one row of the window and one
// row of taps, whatever the kernel size. NHWC writes from registers; NCHW by way of shared memory, because neighbouring
// threads hold neighbouring strips and would each write a few bytes of every sector.
//   shared memory: source [buffers][source_size], output [other_size] (NCHW), spatial taps, channel taps [buffers],
//                  with p.norm the statistics of the spatial filters
// Forward: `scale` and `bias` of each channel, where given, and p.relu are what follows the DDF at inference.

FN Acc combine(Acc spatial, Acc channel) { return ADD ? spatial + channel : spatial * channel; }

// Writes a staged output tile to global memory, BYTES at a time.
template <int BYTES>
FN void unstage_by(Element* image, const Element* from, const Tiling& p, int row, int column, int height, int width, int channels) {
  typedef Pack<Element, BYTES / (int)sizeof(Element)> Bits;
  constexpr int N = BYTES / (int)sizeof(Element);
  const int rows = p.rows * PHASES, units = p.columns * PHASES / N;
  for (Walk w(rows, units); w.a < channels; w.next()) {
    const int y = row + w.b, x = column + w.c * N;
    if (y < height && x < width)
      *(Bits*)(image + ((i64)w.a * height + y) * width + x) = *(const Bits*)(from + (w.a * rows + w.b) * p.other_pitch + w.c * N);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, MIN_BLOCKS)
ddf_apply(const Tiling p, const Element* __restrict__ source, const Element* __restrict__ channel,
          const Element* __restrict__ spatial, Element* __restrict__ output, const Acc* __restrict__ scale,
          const Acc* __restrict__ bias) {
  SHARED_MEMORY(memory);
  const int chunk = NHWC ? PIXEL_CHANNELS : p.chunk;
  Element* staged = (Element*)memory;
  Element* result = staged + p.buffers * p.source_size;
  Acc* unit_taps = (Acc*)(result + p.other_size);
  Acc* weights = unit_taps + p.rows * p.columns * UNIT_TAPS;
  Statistics* statistics = (Statistics*)(weights + p.buffers * TAPS * chunk);

  unsigned block = blockIdx.x;
  const int group = block % p.groups, head = (block /= p.groups) % p.heads, tile = (block /= p.heads) % p.tiles;
  const i64 n = block / p.tiles;
  const int a0 = tile / p.tiles_across * p.rows, b0 = tile % p.tiles_across * p.columns;  // the tile's first unit
  const int in_height = GRAD_X ? p.out_height : p.height, in_width = GRAD_X ? p.out_width : p.width;
  const int height = GRAD_X ? p.height : p.out_height, width = GRAD_X ? p.width : p.out_width;
  const int rows_in = (p.rows - 1) * STEP + WINDOW, columns_in = (p.columns - 1) * STEP + WINDOW;
  const int first_chunk = group * p.chunks, chunks = min(p.chunks, (p.per_head + chunk - 1) / chunk - first_chunk);
  const int shift = shift_of(b0 * STEP + FIRST, p.source_copy), step = channel_step(rows_in, p.source_pitch);

  const auto stage_chunk = [&](int k) {
    const int buffer = k % p.buffers, c = (first_chunk + k) * chunk, exist = p.per_head - c;
    const i64 first = head * (i64)p.per_head + c;
    Region r = region(source, n, first, exist, p.channels, in_height, in_width);
    r.row = a0 * STEP + FIRST, r.column = b0 * STEP + FIRST, r.rows = rows_in, r.columns = columns_in;
    stage(staged + buffer * p.source_size, r, chunk, p.source_pitch, p.source_copy);
    copies_commit();
    stage_channel(weights + buffer * TAPS * chunk, channel, p, n, first, chunk, exist);
  };

  for (int k = 0, begun = 0; k < chunks; ++k) {
    for (; begun < min(k + p.buffers, chunks); ++begun) stage_chunk(begun);
    if (k == 0) {  // while the first chunk travels
      if (p.norm != 0) {
        if (GRAD_X) stage_statistics(statistics, spatial, p, n, head, a0 + FIRST, b0 + FIRST, rows_in, columns_in);
        else stage_statistics(statistics, spatial, p, n, head, a0, b0, p.rows, p.columns);
        __syncthreads();
      }
      stage_spatial(unit_taps, spatial, statistics, p, n, head, a0, b0);
    }
    if (begun == k + 1) copies_wait<0>();
    else copies_wait<1>();
    __syncthreads();

    const Element* tile_in = staged + k % p.buffers * p.source_size + shift;
    const Acc* chunk_weights = weights + k % p.buffers * TAPS * chunk;
    const int c0 = (first_chunk + k) * chunk, left = min(chunk, p.per_head - c0);  // channels that exist
    const int across = p.columns / STRIP, strips = p.rows * across, lanes = chunk / VECTOR;
    for (int item = threadIdx.x; item < strips * lanes; item += blockDim.x) {
      // neighbouring threads: neighbouring channels in NHWC, neighbouring strips in NCHW
      const int lane = NHWC ? item % lanes : item / strips, strip = NHWC ? item / lanes : item % strips;
      const int r = strip / across, u = strip % across * STRIP, a = a0 + r, b = b0 + u, c = lane * VECTOR;
      if (a * PHASES >= height || b * PHASES >= width || c >= left) continue;
      const Element* from = tile_in + staged_at(r * STEP, u * STEP, c, rows_in, p.source_pitch);
      const Acc* taps_at = unit_taps + (r * p.columns + u) * UNIT_TAPS;
#pragma unroll 1  // these two loops stay loops: k times the code would only be k times the compile time
      for (int phase = 0; phase < PHASES; ++phase) {
        Acc sum[STRIP * PHASES][VECTOR] = {};
#pragma unroll 1
        for (int i = (phase + RADIUS) % PHASES; i < KERNEL_SIZE; i += PHASES) {  // the tap rows that feed this output row
          Acc window[STRIP_COLUMNS][VECTOR], weight[KERNEL_SIZE][VECTOR];
          read_weights(weight, chunk_weights + i * KERNEL_SIZE * chunk + c, chunk);
          const Element* line = from + window_of(i) * (NHWC ? p.source_pitch * PIXEL : p.source_pitch);
#pragma unroll
          for (int x = 0; x < STRIP_COLUMNS; ++x) read(window[x], line + x * column_step(), step);
#pragma unroll
          for (int x = 0; x < STRIP; ++x) {
            Acc taps[KERNEL_SIZE];
            read_taps(taps, taps_at + x * UNIT_TAPS + i * TAP_ROW);
#pragma unroll
            for (int j = 0; j < KERNEL_SIZE; ++j)
#pragma unroll
              for (int v = 0; v < VECTOR; ++v)
                sum[x * PHASES + phase_of(j)][v] += combine(taps[j], weight[j][v]) * window[x * STEP + window_of(j)][v];
          }
        }
        if (!GRAD_X && scale)
#pragma unroll
          for (int v = 0; v < VECTOR; ++v) {
            if (c + v >= left) continue;
            const int at = head * p.per_head + c0 + c + v;
            const Acc by = scale[at], plus = bias[at];
#pragma unroll
            for (int x = 0; x < STRIP; ++x) {
              const Acc y = sum[x][v] * by + plus;
              sum[x][v] = p.relu && y < 0 ? 0 : y;
            }
          }
        const int y = a * PHASES + phase, x0 = b * PHASES;
        if constexpr (NHWC) {
          Element* to = output + ((n * height + y) * width + x0) * p.channels + head * p.per_head + c0 + c;
#pragma unroll
          for (int x = 0; x < STRIP * PHASES; ++x) {
            if (y >= height || x0 + x >= width) continue;
            Pack<Element, VECTOR> pack;
#pragma unroll
            for (int v = 0; v < VECTOR; ++v) pack.v[v] = store(sum[x][v]);
            if (p.other_copy >= VECTOR * (int)sizeof(Element)) store_pack(to + x * p.channels, pack);
            else
#pragma unroll
              for (int v = 0; v < VECTOR; ++v)
                if (c + v < left) to[x * p.channels + v] = pack.v[v];
          }
        } else {
          Element* to = result + (c * p.rows * PHASES + r * PHASES + phase) * p.other_pitch + u * PHASES;
#pragma unroll
          for (int v = 0; v < VECTOR; ++v)
#pragma unroll
            for (int x = 0; x < STRIP * PHASES; ++x) to[v * p.rows * PHASES * p.other_pitch + x] = store(sum[x][v]);
        }
      }
    }

    __syncthreads();
    if constexpr (!NHWC) {
      Element* image = output + (n * p.channels + head * (i64)p.per_head + c0) * height * width;
      const int row = a0 * PHASES, column = b0 * PHASES;
      if (p.other_copy == 16) unstage_by<16>(image, result, p, row, column, height, width, left);
      else if (p.other_copy == 8) unstage_by<8>(image, result, p, row, column, height, width, left);
      else if (p.other_copy == 4) unstage_by<(sizeof(Element) > 4 ? 8 : 4)>(image, result, p, row, column, height, width, left);
      else unstage_by<(int)sizeof(Element)>(image, result, p, row, column, height, width, left);
    }
  }
}
