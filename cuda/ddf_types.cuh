// Element types of the kernels, and the few machine instructions that they use. No #include of CUDA headers: the same
// text compiles under NVRTC on any machine, without an include path, and under g++ with tests/cudasim, which executes it.
//   -DDTYPE=0 float   1 half   2 bfloat16   3 double
// The 16-bit types are carried as unsigned short and converted here; sums are kept in Acc.
typedef long long i64;

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
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
FN unsigned bits_of(float v) { return __float_as_uint(v); }
FN float float_of(unsigned v) { return __uint_as_float(v); }
#else
#define FN inline
#define SHARED_MEMORY(name) unsigned char* name = cudasim::shared_memory()
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

// N values that move by one instruction: their address is a multiple of their size (of 16 bytes at most).
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T v[N];
};

// Copies BYTES from global to shared memory, or zeros where there is nothing to copy. Asynchronous where the machine can
// (sm_80 on, 4 bytes on): the data is there for the copying thread after copies_wait, for the others after a barrier too.
template <int BYTES>
FN void copy_in(void* to, const void* from, bool exists) {
#ifdef __CUDACC__
#if __CUDA_ARCH__ >= 800
  if (BYTES >= 4) {
    unsigned target = (unsigned)__cvta_generic_to_shared(to);
    int size = exists ? BYTES : 0;
    if (BYTES == 16)  // past the first-level cache, which a tile read once would only wash out
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(from), "r"(size) : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(target), "l"(from), "r"(size),
                   "n"(BYTES < 4 ? 4 : BYTES > 8 ? 8 : BYTES)
                   : "memory");
    return;
  }
#endif
#else
  if (BYTES >= 4) return cudasim::copy_async(to, from, BYTES, exists);
#endif
  typedef Pack<unsigned short, BYTES / 2> Bits;
  Bits nothing = {};
  *(Bits*)to = exists ? *(const Bits*)from : nothing;
}

// Ends a group of copies.
FN void copies_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
  cudasim::copies_commit();
#endif
}

// Waits until at most `open` of this thread's latest groups are still on their way.
template <int OPEN>
FN void copies_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
#elif !defined(__CUDACC__)
  cudasim::copies_wait(OPEN);
#endif
}

// Stores a pack by one instruction. A plain assignment is taken apart where another branch stores its elements one by one.
template <int N>
FN void store_pack(Element* to, const Pack<Element, N>& pack) {
#ifdef __CUDACC__
  const unsigned* w = (const unsigned*)&pack;
  if constexpr (sizeof pack == 16) asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
  else if constexpr (sizeof pack == 8) asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(w[0]), "r"(w[1]) : "memory");
  else
#endif
    *(Pack<Element, N>*)to = pack;
}
