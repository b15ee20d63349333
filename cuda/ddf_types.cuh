// Element types of the kernels. No #include of CUDA headers: the same text compiles under NVRTC on any machine, without
// an include path, and under a host compiler, where the tests execute it.
//   -DDTYPE=0 float   1 half   2 bfloat16   3 double
// The 16-bit types are carried as unsigned short and converted here; sums are kept in Acc.
#ifndef DTYPE
#define DTYPE 0
#endif

#if DTYPE == 3
typedef double Acc;
typedef double Element;
#elif DTYPE == 0
typedef float Acc;
typedef float Element;
#else
typedef float Acc;
typedef unsigned short Element;
#endif

#ifdef __CUDACC__
#define FN __device__ __forceinline__
FN unsigned bits_of(float v) { return __float_as_uint(v); }
FN float float_of(unsigned v) { return __uint_as_float(v); }
#else
#define FN static inline
FN unsigned bits_of(float v) { unsigned u; __builtin_memcpy(&u, &v, 4); return u; }
FN float float_of(unsigned v) { float f; __builtin_memcpy(&f, &v, 4); return f; }
#endif

#if DTYPE == 0 || DTYPE == 3
FN Acc load(Element v) { return v; }
FN Element store(Acc v) { return v; }
#elif DTYPE == 2
FN Acc load(Element v) { return float_of((unsigned)v << 16); }
FN Element store(Acc v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  Element r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(v));
  return r;
#else  // round to nearest, ties to even
  unsigned u = bits_of(v);
  return v != v ? (Element)0x7fff : (Element)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
}
#elif defined(__CUDACC__)
FN Acc load(Element v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
}
FN Element store(Acc v) {
  Element r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(v));
  return r;
}
#else
FN Acc load(Element v) { _Float16 h; __builtin_memcpy(&h, &v, 2); return (Acc)h; }
FN Element store(Acc v) { _Float16 h = (_Float16)v; Element r; __builtin_memcpy(&r, &h, 2); return r; }
#endif
