// The DDF operation for every case: any odd kernel size, stride, dilation, heads, memory layout and size, "mul" and "add".
// One thread computes one value by the definition (paper Eq. 2): plain and slow, the kernels for common shapes stand in
// files of their own. Deterministic: every sum has one owner and a fixed order. Indices are 64-bit.
//   -DDTYPE: ddf_types.cuh, which the launcher puts before this file
struct Problem {
  i64 n, channels, heads, height, width, out_height, out_width, kernel_size, stride, dilation, add, relu;
  i64 x[4], y[4], s[4];  // strides, in elements, of the N, C, H and W axes of x, y and the spatial filter
};

#define FOR_EACH(index, count)                                                                       \
  for (i64 index = (i64)blockIdx.x * blockDim.x + threadIdx.x, total_ = (count); index < total_;     \
       index += (i64)gridDim.x * blockDim.x)

FN i64 at(const i64* strides, i64 n, i64 c, i64 h, i64 w) {
  return n * strides[0] + c * strides[1] + h * strides[2] + w * strides[3];
}

// One tap of the combined filter; a missing filter is ones for "mul", zeros for "add".
FN Acc weight(const Problem& p, const Element* channel, const Element* spatial, i64 n, i64 c, i64 tap, i64 h, i64 w) {
  i64 taps = p.kernel_size * p.kernel_size, head = c / (p.channels / p.heads);
  Acc neutral = p.add ? (Acc)0 : (Acc)1;
  Acc f = channel ? load(channel[(n * p.channels + c) * taps + tap]) : neutral;
  Acc s = spatial ? load(spatial[at(p.s, n, head * taps + tap, h, w)]) : neutral;
  return p.add ? f + s : f * s;
}

// The input row or column that a tap reads for an output one; outside the image where not in [0, size).
FN i64 input_of(const Problem& p, i64 out, i64 tap) { return out * p.stride + (tap - p.kernel_size / 2) * p.dilation; }

extern "C" __global__ void ddf_forward(
    Problem p, const Element* x, const Element* channel, const Element* spatial, Element* y, const Acc* scale, const Acc* bias) {
  FOR_EACH(index, p.n * p.channels * p.out_height * p.out_width) {
    i64 w = index % p.out_width, h = index / p.out_width % p.out_height;
    i64 c = index / (p.out_width * p.out_height) % p.channels, n = index / (p.out_width * p.out_height * p.channels);
    Acc sum = 0;
    for (i64 i = 0; i < p.kernel_size; ++i) {
      i64 row = input_of(p, h, i);
      if (row < 0 || row >= p.height) continue;
      for (i64 j = 0; j < p.kernel_size; ++j) {
        i64 column = input_of(p, w, j);
        if (column < 0 || column >= p.width) continue;
        Acc f = weight(p, channel, spatial, n, c, i * p.kernel_size + j, h, w);
        sum += f * load(x[at(p.x, n, c, row, column)]);
      }
    }
    if (scale) sum = sum * scale[c] + bias[c];
    y[at(p.y, n, c, h, w)] = store(p.relu && sum < 0 ? 0 : sum);
  }
}

extern "C" __global__ void ddf_grad_x(
    Problem p, const Element* grad, const Element* channel, const Element* spatial, Element* dx, const Acc*, const Acc*) {
  FOR_EACH(index, p.n * p.channels * p.height * p.width) {
    i64 column = index % p.width, row = index / p.width % p.height;
    i64 c = index / (p.width * p.height) % p.channels, n = index / (p.width * p.height * p.channels);
    Acc sum = 0;
    for (i64 i = 0; i < p.kernel_size; ++i) {
      i64 h = row - (i - p.kernel_size / 2) * p.dilation;  // out * stride, where this tap of an output reads this row
      if (h < 0 || h % p.stride || h / p.stride >= p.out_height) continue;
      h /= p.stride;
      for (i64 j = 0; j < p.kernel_size; ++j) {
        i64 w = column - (j - p.kernel_size / 2) * p.dilation;
        if (w < 0 || w % p.stride || w / p.stride >= p.out_width) continue;
        w /= p.stride;
        Acc f = weight(p, channel, spatial, n, c, i * p.kernel_size + j, h, w);
        sum += f * load(grad[at(p.y, n, c, h, w)]);
      }
    }
    dx[at(p.x, n, c, row, column)] = store(sum);
  }
}

// A filter's gradient reads the other filter under "mul" only; under "add" the launcher passes none, and add = 0.
extern "C" __global__ void ddf_grad_spatial(
    Problem p, const Element* grad, const Element* x, const Element* channel, Element* ds) {
  i64 taps = p.kernel_size * p.kernel_size, per_head = p.channels / p.heads;
  FOR_EACH(index, p.n * p.heads * taps * p.out_height * p.out_width) {
    i64 w = index % p.out_width, h = index / p.out_width % p.out_height;
    i64 rest = index / (p.out_width * p.out_height), tap = rest % taps, head = rest / taps % p.heads;
    i64 n = rest / (taps * p.heads), row = input_of(p, h, tap / p.kernel_size), column = input_of(p, w, tap % p.kernel_size);
    Acc sum = 0;
    if (row >= 0 && row < p.height && column >= 0 && column < p.width)
      for (i64 c = head * per_head; c < (head + 1) * per_head; ++c)
        sum += weight(p, channel, 0, n, c, tap, h, w) * load(grad[at(p.y, n, c, h, w)]) * load(x[at(p.x, n, c, row, column)]);
    ds[at(p.s, n, head * taps + tap, h, w)] = store(sum);
  }
}

extern "C" __global__ void ddf_grad_channel(
    Problem p, const Element* grad, const Element* x, const Element* spatial, Element* dc) {
  i64 taps = p.kernel_size * p.kernel_size;
  FOR_EACH(index, p.n * p.channels * taps) {
    i64 tap = index % taps, c = index / taps % p.channels, n = index / (taps * p.channels);
    Acc sum = 0;
    for (i64 h = 0; h < p.out_height; ++h) {
      i64 row = input_of(p, h, tap / p.kernel_size);
      if (row < 0 || row >= p.height) continue;
      Acc row_sum = 0;  // a long float sum in parts, so that its rounding does not grow with the picture
      for (i64 w = 0; w < p.out_width; ++w) {
        i64 column = input_of(p, w, tap % p.kernel_size);
        if (column < 0 || column >= p.width) continue;
        row_sum += weight(p, 0, spatial, n, c, tap, h, w) * load(grad[at(p.y, n, c, h, w)]) * load(x[at(p.x, n, c, row, column)]);
      }
      sum += row_sum;
    }
    dc[index] = store(sum);
  }
}
