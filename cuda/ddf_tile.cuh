// What the fast kernels share: the job's description, and a tile of an image in shared memory with the filters beside it.
//   -DNHWC=1 channels_last   0 NCHW     -DKERNEL_SIZE 3, 5 or 7     -DSTRIDE 1 or 2     dilation is 1
//   -DGRAD_X=1 reads the gradient of y and gives that of x; 0 reads x
//
// A *unit* is what one set of k x k taps belongs to: a pixel of y, or, for the gradient of x, the STRIDE x STRIDE pixels of
// x whose taps are the filters of the same few pixels of y. It sees WINDOW x WINDOW pixels of the *source* (x, or the
// gradient of y). A *strip* is STRIP units side by side in a row: one thread's work, for VECTOR channels. Seven, because the
// maps of an ImageNet network are multiples of it, and because threads an odd number of words apart meet in no bank
// (from row to row the launcher sees to that, by the pitch).
#define RADIUS (KERNEL_SIZE / 2)
#define TAPS (KERNEL_SIZE * KERNEL_SIZE)
#define STEP (GRAD_X ? 1 : STRIDE)                                         // source pixels between neighbouring units
#define WINDOW (GRAD_X ? (KERNEL_SIZE - 1) / STRIDE + 1 : KERNEL_SIZE)     // source rows, and columns, of one unit
#define FIRST (GRAD_X ? -(RADIUS / STRIDE) : -RADIUS)                      // the first of them, from unit * STEP
#define PHASES (GRAD_X ? STRIDE : 1)                                       // output rows, and columns, of one unit
#define STRIP 7
#define STRIP_COLUMNS ((STRIP - 1) * STEP + WINDOW)                        // source columns that a strip sees
#define VECTOR (DTYPE == 3 ? 2 : 4)                                        // channels of one thread: 8 or 16 bytes
#define THREADS 256
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800 || (__CUDA_ARCH__ >= 1000 && GRAD_X && STRIDE == 2 && !NHWC))
#define MIN_BLOCKS 1                                                       // per multiprocessor: 255 registers
#else                                                                      // (Blackwell: 128 spill with NVRTC 13.0)
#define MIN_BLOCKS (KERNEL_SIZE == 3 && DTYPE != 3 ? 2 : 1)                // 128 registers, where they suffice
#endif

// A unit's spatial taps in shared memory: rows of whole 4-packs; an odd number of packs per unit spreads over the banks.
#define TAP_ROW ((KERNEL_SIZE + 3) / 4 * 4)
#define UNIT_TAPS (KERNEL_SIZE * TAP_ROW / 4 % 2 ? KERNEL_SIZE * TAP_ROW : KERNEL_SIZE * TAP_ROW + 4)

// Bytes of one staged pixel in NHWC: 128 of channels. The filter gradients pad it, since there the threads of a warp read
// different pixels of the same channels.
#ifndef PIXEL_PAD
#define PIXEL_PAD 0
#endif
#define PIXEL_CHANNELS (128 / (int)sizeof(Element))
#define PIXEL ((128 + PIXEL_PAD) / (int)sizeof(Element))

// Written by ddfnet/ops/gpu/records.py, field by field. Sizes are in elements unless they say otherwise.
struct Tiling {
  i64 s[4];                    // strides of the spatial filter (N, taps, rows, columns)
  i64 ds[4];                   // those of its gradient
  double norm;                 // 0, or: the spatial filter is raw, and becomes this times what has mean 0 and deviation 1
  int channels, heads, per_head;
  int height, width;           // of x
  int out_height, out_width;   // of y
  int rows, columns;           // units of a tile; columns are whole strips
  int tiles, tiles_across;     // of an image
  int chunk;                   // channels staged at a time: 128 bytes of them in NHWC
  int chunks, groups;          // chunks that a block works through; blocks that share a tile of a head
  int buffers;                 // 1, or 2: the next chunk travels while this one is worked on
  int source_copy, source_pitch, source_size;  // bytes per copy; distance of rows (NHWC: in pixels); a whole chunk
  int other_copy, other_pitch, other_size;     // the same of the gradient of y beside x, or of the output (NCHW)
  int slots, parts;            // filter gradients: threads that share a channel, a unit
  int relu;                    // after scale and bias
};

// Which output pixel of its unit the tap row (or column) i feeds, and which source row of the window it reads.
FN constexpr int phase_of(int i) { return GRAD_X ? (i + RADIUS) % STRIDE : 0; }
FN constexpr int window_of(int i) { return GRAD_X ? (phase_of(i) + RADIUS - i) / STRIDE - FIRST : i; }

// Where channel c of a staged pixel lies. NHWC: pixel by pixel; NCHW: plane by plane.
FN int staged_at(int row, int column, int c, int rows, int pitch) {
  return NHWC ? (row * pitch + column) * PIXEL + c : (c * rows + row) * pitch + column;
}

// Elements between neighbouring columns and channels of a staged tile.
FN constexpr int column_step() { return NHWC ? PIXEL : 1; }
FN int channel_step(int rows, int pitch) { return NHWC ? 1 : rows * pitch; }

// A rectangle of an image whose rows, columns and channels may lie outside: zeros there.
struct Region {
  const Element* image;             // its row 0, column 0, first channel
  int height, width, channels;      // how much of it there is
  i64 row_step, outer_step;         // distance of rows; of columns (NHWC) or of channels (NCHW)
  int row, column, rows, columns;   // the rectangle
};

FN Region region(const Element* tensor, i64 n, i64 first_channel, int exist, int channels, int height, int width) {
  Region r;
  r.image = tensor + (NHWC ? n * height * width * channels + first_channel : (n * channels + first_channel) * height * width);
  r.height = height, r.width = width, r.channels = exist;
  r.row_step = NHWC ? (i64)width * channels : width;
  r.outer_step = NHWC ? channels : (i64)height * width;
  return r;
}

// Copies are `copy` bytes wide, and in NCHW begin at a multiple of that: so many columns before the first one wanted.
FN int shift_of(int column, int copy) { return NHWC ? 0 : column & (copy / (int)sizeof(Element) - 1); }

// Indices (a, b, c) of a box, c fastest, dealt out to the threads of the block.
struct Walk {
  int a, b, c, step_a, step_b, step_c, size_b, size_c;
  FN Walk(int size_b, int size_c) : size_b(size_b), size_c(size_c) {
    const int at = threadIdx.x, step = blockDim.x;
    c = at % size_c, b = at / size_c % size_b, a = at / size_c / size_b;
    step_c = step % size_c, step_b = step / size_c % size_b, step_a = step / size_c / size_b;
  }
  FN void next() {  // no division: these run once per copy
    c += step_c, b += step_b, a += step_a;
    if (c >= size_c) c -= size_c, ++b;
    if (b >= size_b) b -= size_b, ++a;
  }
};

template <int BYTES>
FN void stage_by(Element* to, const Region& r, int chunk, int pitch) {
  constexpr int N = BYTES / (int)sizeof(Element);
  if constexpr (NHWC) {
    for (Walk w(r.columns, PIXEL_CHANNELS / N); w.a < r.rows; w.next()) {
      const int y = r.row + w.a, x = r.column + w.b, c = w.c * N;
      const bool exists = (unsigned)y < (unsigned)r.height && (unsigned)x < (unsigned)r.width && c < r.channels;
      const Element* from = r.image + y * r.row_step + x * r.outer_step + c;
      copy_in<BYTES>(to + staged_at(w.a, w.b, c, r.rows, pitch), exists ? from : r.image, exists);
    }
  } else {
    const int first = r.column - shift_of(r.column, BYTES), end = r.column + r.columns;
    for (Walk w(r.rows, (end - first + N - 1) / N); w.a < chunk; w.next()) {
      const int y = r.row + w.b, x = first + w.c * N;
      const bool exists = (unsigned)y < (unsigned)r.height && (unsigned)x < (unsigned)r.width && w.a < r.channels;
      const Element* from = r.image + w.a * r.outer_step + y * r.row_step + x;
      copy_in<BYTES>(to + staged_at(w.b, w.c * N, w.a, r.rows, pitch), exists ? from : r.image, exists);
    }
  }
}

// Starts to copy `chunk` channels of a region. What a chunk holds beyond the region's channels becomes zero too.
FN void stage(Element* to, const Region& r, int chunk, int pitch, int copy) {
  if (copy == 16) stage_by<16>(to, r, chunk, pitch);
  else if (copy == 8) stage_by<8>(to, r, chunk, pitch);
  else if (copy == 4) stage_by<(sizeof(Element) > 4 ? 8 : 4)>(to, r, chunk, pitch);
  else stage_by<(int)sizeof(Element)>(to, r, chunk, pitch);
}

// A missing filter is ones for "mul", zeros for "add".
#define NEUTRAL (ADD ? (Acc)0 : (Acc)1)

// What normalises a raw spatial filter (paper Eq. 3): (s - first - mean) * factor. Its taps are taken from the first one
// on, so that equal taps become exactly zero; their deviation (unbiased) is 1 / inverse.
struct Statistics {
  Acc first, mean, inverse, factor;
  FN Acc centred(Element tap) const { return load(tap) - first - mean; }
};

FN Statistics statistics_of(const Element* taps, i64 step, double norm) {
  Statistics s = {load(taps[0]), 0, 0, 0};
  Acc sum = 0, squares = 0;
#pragma unroll KERNEL_SIZE  // 49 taps at once would only be long to compile
  for (int tap = 1; tap < TAPS; ++tap) sum += load(taps[tap * step]) - s.first;
  s.mean = sum / TAPS;
#pragma unroll KERNEL_SIZE
  for (int tap = 0; tap < TAPS; ++tap) squares += s.centred(taps[tap * step]) * s.centred(taps[tap * step]);
  const Acc deviation = sqrt(squares / (TAPS - 1));
  if (deviation > 0) s.inverse = 1 / deviation, s.factor = (Acc)norm / (deviation + (Acc)1e-10);
  return s;
}

// Those of the filters of `rows` x `columns` pixels of y.
FN void stage_statistics(Statistics* to, const Element* raw, const Tiling& p, i64 n, int head, int row, int column, int rows, int columns) {
  raw += n * p.s[0] + (i64)head * TAPS * p.s[1];
  for (Walk w(columns, 1); w.a < rows; w.next()) {
    const int y = row + w.a, x = column + w.b;
    if ((unsigned)y < (unsigned)p.out_height && (unsigned)x < (unsigned)p.out_width)
      to[w.a * columns + w.b] = statistics_of(raw + y * p.s[2] + x * p.s[3], p.s[1], p.norm);
  }
}

// The spatial taps of every unit of the tile, UNIT_TAPS apart, in Acc; zero for units outside the map. `statistics`: of
// the source's pixels for the gradient of x, else of the units.
FN void stage_spatial(Acc* to, const Element* spatial, const Statistics* statistics, const Tiling& p, i64 n, int head, int row, int column) {
  const int height = GRAD_X ? (p.height + STRIDE - 1) / STRIDE : p.out_height;
  const int width = GRAD_X ? (p.width + STRIDE - 1) / STRIDE : p.out_width;
  if (spatial) spatial += n * p.s[0] + (i64)head * TAPS * p.s[1];
  const bool norm = p.norm != 0;  // compared once: consumer GPUs take 32 times as long for a double
  for (Walk w(p.columns, 1); w.a < p.rows; w.next()) {
    const int a = row + w.a, b = column + w.b;
    Acc* taps = to + (w.a * p.columns + w.b) * UNIT_TAPS;
#pragma unroll
    for (int i = 0; i < KERNEL_SIZE; ++i) {
      Pack<Acc, TAP_ROW> line = {};
#pragma unroll
      for (int j = 0; j < KERNEL_SIZE; ++j) {  // the gradient of x meets the filters of the pixels of y that read it
        const int y = GRAD_X ? a + FIRST + window_of(i) : a, x = GRAD_X ? b + FIRST + window_of(j) : b;
        const bool exists = a < height && b < width && (unsigned)y < (unsigned)p.out_height && (unsigned)x < (unsigned)p.out_width;
        if (!spatial) line.v[j] = NEUTRAL;
        else if (exists) {
          const Element tap = spatial[(i * KERNEL_SIZE + j) * p.s[1] + y * p.s[2] + x * p.s[3]];
          if (norm) {
            const Statistics s = GRAD_X ? statistics[(w.a + window_of(i)) * (p.columns - 1 + WINDOW) + w.b + window_of(j)]
                                        : statistics[w.a * p.columns + w.b];
            line.v[j] = s.centred(tap) * s.factor;
          } else line.v[j] = load(tap);
        }
      }
      *(Pack<Acc, TAP_ROW>*)(taps + i * TAP_ROW) = line;
    }
  }
}

// The taps of the chunk's channels, (TAPS, chunk), in Acc; zero for channels that the head does not have.
FN void stage_channel(Acc* to, const Element* channel, const Tiling& p, i64 n, i64 first_channel, int chunk, int exist) {
  if (channel) channel += (n * p.channels + first_channel) * TAPS;
  for (int e = threadIdx.x; e < chunk * TAPS; e += blockDim.x) {
    const int c = e / TAPS, tap = e % TAPS;
    to[tap * chunk + c] = c >= exist ? (Acc)0 : channel ? load(channel[e]) : NEUTRAL;
  }
}

// A thread's channels of one staged pixel.
FN void read(Acc* values, const Element* at, int channel_step) {
  if constexpr (NHWC) {
    const Pack<Element, VECTOR> pack = *(const Pack<Element, VECTOR>*)at;
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) values[v] = load(pack.v[v]);
  } else {
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) values[v] = load(at[v * channel_step]);
  }
}

// One row of taps: of a unit (spatial filter), or of VECTOR channels (channel filter, (tap, channel)).
FN void read_taps(Acc* taps, const Acc* from) {
  const Pack<Acc, TAP_ROW> pack = *(const Pack<Acc, TAP_ROW>*)from;
#pragma unroll
  for (int j = 0; j < KERNEL_SIZE; ++j) taps[j] = pack.v[j];
}
FN void read_weights(Acc (*weights)[VECTOR], const Acc* from, int chunk) {
#pragma unroll
  for (int j = 0; j < KERNEL_SIZE; ++j) {
    const Pack<Acc, VECTOR> pack = *(const Pack<Acc, VECTOR>*)(from + j * chunk);
#pragma unroll
    for (int v = 0; v < VECTOR; ++v) weights[j][v] = pack.v[v];
  }
}
