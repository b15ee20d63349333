// Runs a CUDA kernel's own source on the CPU, so that it can be tested, and watched by sanitizers, without a GPU.
// Blocks run one after the other; each thread of a block is a fiber that runs until it meets a barrier. What it models:
//   __syncthreads     every thread must arrive, at the same barrier; else the program ends with a message
//   shared memory     exactly as long as the launch asked for, filled with NaN
//   cp.async          the bytes arrive when the copying thread waits for their group; until then the target holds NaN
//   launch limits     threads, grid, bytes of shared memory
// The order in which threads and blocks run is the caller's choice: results must not depend on it.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#define __global__
#define __launch_bounds__(...)
struct uint3 { unsigned x, y, z; };
extern uint3 threadIdx, blockIdx, blockDim, gridDim;
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
#define __syncthreads() cudasim::barrier(__LINE__)

namespace cudasim {
void launch(unsigned grid, unsigned block, size_t shared, const std::function<void()>& kernel);
void barrier(int line);
unsigned char* shared_memory();
[[noreturn]] void fail(const char* what);

// The copies of one thread. Inline, so that a sanitizer watching the kernel sees them as that thread's writes.
struct Copy { void* to; const void* from; int bytes; bool exists; };
struct Copies { std::vector<Copy> open; std::vector<std::vector<Copy>> groups; };
Copies& copies_of_thread();

static inline void copy_async(void* to, const void* from, int bytes, bool exists) {
  if ((uintptr_t)to % bytes || (uintptr_t)from % bytes) fail("cp.async from or to an address that is not a multiple of its size");
  memset(to, 0xff, bytes);
  copies_of_thread().open.push_back({to, from, bytes, exists});
}
static inline void copies_commit() {
  Copies& copies = copies_of_thread();
  copies.groups.push_back(std::move(copies.open));
  copies.open.clear();
}
static inline void copies_wait(int still_open) {
  std::vector<std::vector<Copy>>& groups = copies_of_thread().groups;
  for (; (int)groups.size() > still_open; groups.erase(groups.begin()))
    for (const Copy& copy : groups[0])
      if (copy.exists) memcpy(copy.to, copy.from, copy.bytes);
      else memset(copy.to, 0, copy.bytes);
}

// Calls a kernel with arguments given by address, as cuLaunchKernel takes them.
template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) { kernel(*(A*)arguments[I]...); }
template <typename... A>
void run(void (*kernel)(A...), unsigned grid, unsigned block, size_t shared, void** arguments) {
  launch(grid, block, shared, [=] { call(kernel, arguments, std::index_sequence_for<A...>()); });
}
}  // namespace cudasim

#define CUDASIM_EXPORT(kernel)                                                                    \
  extern "C" void simulate(unsigned grid, unsigned block, size_t shared, void** arguments) {      \
    cudasim::run(kernel, grid, block, shared, arguments);                                         \
  }
