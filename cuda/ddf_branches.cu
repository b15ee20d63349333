// What both branches of a DDF layer need of x, in one pass over it: the raw spatial filter, a 1x1 convolution, and the mean
// of every channel.
//   -DDTYPE  ddf_types.cuh, which the launcher puts before this file     -DNHWC=1 channels_last   0 NCHW
//
// A block owns a tile, neighbouring pixels of one image, and walks through its channels, a chunk of 128 bytes at a time:
// the chunk travels to shared memory by asynchronous copies while those before are worked on. There it is read twice. For
// the convolution a thread has PIXELS output pixels, GROUP outputs and a share of the chunk's channels: a weight read once
// serves PIXELS products, a value of x GROUP. For the mean it has VECTOR channels of every SLOTS-th pixel. Where an image
// has one tile, the sums over it are divided and done; else ddf_branches_mean.cu adds those of all.
//   shared memory: sums [SLOTS][ROW], source [buffers][tile_size], weights [buffers][outputs of the block][ROW]; at the
//   end, in the place of source and weights, the threads' shares of the outputs: THREADS * PIXELS * GROUP at most
#define THREADS 128
#define PIXELS 4
#define GROUP 9                                   // outputs of a 3x3 filter
#define VECTOR (16 / (int)sizeof(Element))
#define CHANNELS (128 / (int)sizeof(Element))     // of a chunk
#define PACKS 8                                   // CHANNELS / VECTOR
#define SLOTS (THREADS / PACKS)
#define ROW (CHANNELS + 4)                        // of sums or weights: rows shifted by 4 words meet in no bank
#define PIXEL_STEP (NHWC ? CHANNELS + VECTOR : 1) // between neighbouring pixels in the tile: 144 bytes, likewise

// Written by ddfnet/ops/gpu/records.py, field by field. Sizes are in elements unless they say otherwise.
struct Branches {
  int channels, outputs, height, width, stride, out_width, out_pixels;
  int pixels, tiles;   // of a tile; of an image
  int groups, bands;   // of GROUP outputs that a block makes; blocks that share a tile
  int buffers, tile_size;
  int copy, across;    // bytes of a copy: 16, 8 or an element; threads side by side along a row of them, a power of two
};

// How many output pixels lie before a pixel of x, row by row.
FN int outputs_before(int pixel, const Branches& p) {
  const int row = pixel / p.width, column = pixel % p.width, s = p.stride;
  return (row + s - 1) / s * p.out_width + (row % s ? 0 : (column + s - 1) / s);
}

// Starts to copy a chunk of the tile's channels, of which `left` exist; zeros in place of the others.
template <int BYTES>
FN void stage(Element* to, const Element* from, const Branches& p, int area, int count, int left) {
  constexpr int N = BYTES / (int)sizeof(Element);
  const bool whole = !NHWC && p.tiles == 1;  // planes follow each other without gaps: one row, whatever their size
  const int rows = NHWC ? count : whole ? 1 : CHANNELS, columns = NHWC ? CHANNELS : whole ? CHANNELS * area : count;
  const int rows_exist = NHWC || whole ? rows : left, columns_exist = NHWC ? left : whole ? left * area : count;
  const int from_step = NHWC ? p.channels : area, to_step = NHWC ? PIXEL_STEP : p.pixels;
  for (int r = threadIdx.x / p.across; r < rows; r += THREADS / p.across)
    for (int c = threadIdx.x % p.across * N; c < columns; c += p.across * N) {
      const bool exists = r < rows_exist && c < columns_exist;
      copy_in<BYTES>(to + r * to_step + c, exists ? from + (i64)r * from_step + c : from, exists);
    }
}

// VECTOR channels of a staged pixel, in NHWC by one instruction.
FN void read(Acc* values, const Element* at, int channel_step) {
  Pack<Element, VECTOR> pack;
  if constexpr (NHWC) pack = *(const Pack<Element, VECTOR>*)at;
#pragma unroll
  for (int v = 0; v < VECTOR; ++v) values[v] = load(NHWC ? pack.v[v] : at[v * channel_step]);
}

extern "C" __global__ void __launch_bounds__(THREADS, DTYPE == 3 ? 2 : 4)  // 128 registers; double 255
ddf_branches(const Branches p, const Element* __restrict__ x, const Element* __restrict__ weight, const Element* __restrict__ bias,
             Element* __restrict__ spatial, Element* __restrict__ pooled, Acc* __restrict__ partial) {
  SHARED_MEMORY(memory);
  Acc* sums = (Acc*)memory;
  Element* source = (Element*)(sums + SLOTS * ROW);
  Acc* weights = (Acc*)(source + p.buffers * p.tile_size);
  Acc* shares = (Acc*)source;

  unsigned block = blockIdx.x;
  const int band = block % p.bands, tile = (block /= p.bands) % p.tiles, thread = threadIdx.x;
  const i64 n = block / p.tiles;
  const int area = p.height * p.width, pixel = tile * p.pixels, count = min(p.pixels, area - pixel);  // of x
  const int q0 = outputs_before(pixel, p), pixels = outputs_before(pixel + count, p) - q0;            // of the output
  const int room = p.groups * GROUP, first = band * room, mine = min(room, p.outputs - first);        // outputs
  const int chunks = (p.channels + CHANNELS - 1) / CHANNELS, channel_step = p.pixels;                 // the latter of NCHW

  const auto begin = [&](int k) {
    const int c0 = k * CHANNELS, left = min(CHANNELS, p.channels - c0), buffer = k % p.buffers;
    if (left > 0) {
      const Element* from = x + n * area * p.channels + (NHWC ? (i64)pixel * p.channels + c0 : (i64)c0 * area + pixel);
      Element* to = source + buffer * p.tile_size;
      if (p.copy == 16) stage<16>(to, from, p, area, count, left);
      else if (p.copy == 8) stage<8>(to, from, p, area, count, left);
      else stage<(int)sizeof(Element)>(to, from, p, area, count, left);
      const int c = thread % CHANNELS;
      for (int o = thread / CHANNELS; o < room; o += THREADS / CHANNELS) {
        const Element* w = weight + (i64)(first + o) * p.channels + c0 + c;
        weights[(buffer * room + o) * ROW + c] = o < mine && c < left ? load(*w) : (Acc)0;
      }
    }
    copies_commit();
  };

  // the thread's part in the convolution: lanes beside each other have neighbouring pixels, and read the same weights
  const int lanes = max(1, (pixels + PIXELS - 1) / PIXELS), most = THREADS / (lanes * p.groups);
  const int rounds = (PACKS + most - 1) / most, parts = (PACKS + rounds - 1) / rounds;
  const int lane = thread % lanes, part = thread / lanes % parts, o0 = thread / lanes / parts * GROUP;
  const bool convolves = o0 < mine && pixels > 0;
  int place[PIXELS];
  Acc sum[PIXELS][GROUP];
#pragma unroll
  for (int a = 0; a < PIXELS; ++a) {
    const int q = q0 + max(0, min(lane + a * lanes, pixels - 1));  // beyond the last pixel: that one again
    place[a] = ((q / p.out_width * p.width + q % p.out_width) * p.stride - pixel) * PIXEL_STEP;
#pragma unroll
    for (int o = 0; o < GROUP; ++o) sum[a][o] = bias && part == 0 && o0 + o < mine ? load(bias[first + o0 + o]) : (Acc)0;
  }

  for (int k = 0, begun = 0; k < chunks; ++k) {
    for (; begun < k + p.buffers; ++begun) begin(begun);  // past the last chunk an empty group: the wait is the same
    if (p.buffers == 1) copies_wait<0>();
    else if (p.buffers == 2) copies_wait<1>();
    else copies_wait<2>();
    __syncthreads();
    const Element* staged = source + k % p.buffers * p.tile_size;
    const int left = min(CHANNELS, p.channels - k * CHANNELS);
    if (convolves) {
      const Acc* row = weights + (k % p.buffers * room + o0) * ROW;
#pragma unroll 1
      for (int c = part * VECTOR; c < left; c += parts * VECTOR) {
        Acc values[PIXELS][VECTOR];
#pragma unroll
        for (int a = 0; a < PIXELS; ++a) read(values[a], staged + place[a] + (NHWC ? c : c * channel_step), channel_step);
#pragma unroll
        for (int o = 0; o < GROUP; ++o) {
          const Pack<Acc, VECTOR> w = *(const Pack<Acc, VECTOR>*)(row + o * ROW + c);
#pragma unroll
          for (int v = 0; v < VECTOR; ++v)
#pragma unroll
            for (int a = 0; a < PIXELS; ++a) sum[a][o] += w.v[v] * values[a][v];
        }
      }
    }
    if (band == 0) {  // neighbouring threads: neighbouring channels in NHWC, neighbouring pixels in NCHW
      const int c = (NHWC ? thread % PACKS : thread / SLOTS) * VECTOR, slot = NHWC ? thread / PACKS : thread % SLOTS;
      Pack<Acc, VECTOR> total = {};
#pragma unroll 1  // four at a time would take registers that the shares need
      for (int i = slot; i < count; i += SLOTS) {
        Acc values[VECTOR];
        read(values, staged + i * PIXEL_STEP + (NHWC ? c : c * channel_step), channel_step);
#pragma unroll
        for (int v = 0; v < VECTOR; ++v) total.v[v] += values[v];
      }
      *(Pack<Acc, VECTOR>*)(sums + slot * ROW + c) = total;
    }
    __syncthreads();
    for (int c = thread; band == 0 && c < left; c += THREADS) {
      Acc total = 0;
      for (int slot = 0; slot < SLOTS; ++slot) total += sums[slot * ROW + c];
      if (partial) partial[(n * p.tiles + tile) * p.channels + k * CHANNELS + c] = total;
      else pooled[n * p.channels + k * CHANNELS + c] = store(total / area);
    }
  }
  copies_wait<0>();

  // the parts' shares, and their sums, both in the order of the output: pixel by pixel, in NCHW output by output
  const int made = pixels * mine;
#pragma unroll
  for (int a = 0; a < PIXELS; ++a)
#pragma unroll
    for (int o = 0; o < GROUP; ++o) {
      const int q = lane + a * lanes;
      if (convolves && q < pixels && o0 + o < mine)
        shares[part * made + (NHWC ? q * mine + o0 + o : (o0 + o) * pixels + q)] = sum[a][o];
    }
  __syncthreads();
  Element* to = spatial + (NHWC ? (n * p.out_pixels + q0) * p.outputs + first : (n * p.outputs + first) * p.out_pixels + q0);
  const int columns = !NHWC ? pixels : p.bands == 1 ? made : mine, step = NHWC ? p.outputs : p.out_pixels;
  for (int at = 0; at < made; at += columns, to += step)
    for (int e = thread; e < columns; e += THREADS) {
      Acc total = 0;
      for (int i = 0; i < parts; ++i) total += shares[i * made + at + e];
      to[e] = store(total);
    }
}
