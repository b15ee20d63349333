// The scheduler of cudasim.h. A switch between fibers is a longjmp, about 50 ns; a sanitizer must be told of each one and
// wants whole contexts: -DCUDASIM_ASAN, or -DCUDASIM_TSAN (this file itself is never compiled with -fsanitize=thread,
// or the scheduler's own accesses would look like races).
#include "cudasim.h"
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <ucontext.h>
#ifdef CUDASIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CUDASIM_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void* __tsan_get_current_fiber();
void __tsan_acquire(void* at);
void __tsan_release(void* at);
}
static const unsigned NO_SYNC = 1;  // a switch orders nothing: only barriers do
#else
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif

uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace cudasim {
static const size_t STACK = 64 << 10;
struct Fiber {
  enum { READY, AT_BARRIER, DONE } state;
  int line;  // of the barrier
  bool started;
  jmp_buf jump;
  ucontext_t context;
  char* stack;
  void *fake_stack, *tsan;
  Copies copies;
};
static std::vector<Fiber> fibers;
static int current;
static jmp_buf scheduler_jump;
static ucontext_t scheduler;
static void *scheduler_fake_stack, *scheduler_tsan;
static const void* scheduler_stack;
static size_t scheduler_stack_size;
static const std::function<void()>* body;
static unsigned char* memory;
static char barrier_tag, start_tag, end_tag;
static int order;  // 0 ascending, 1 descending, 2 shuffled
static uint32_t random_state;

unsigned char* shared_memory() { return memory; }
Copies& copies_of_thread() { return fibers[current].copies; }

void fail(const char* what) {
  fprintf(stderr, "cudasim: %s (block %u, thread %u)\n", what, blockIdx.x, threadIdx.x);
  abort();
}

static void to_scheduler(bool last) {
  Fiber& f = fibers[current];
  (void)f, (void)last;
#if defined(CUDASIM_ASAN)
  __sanitizer_start_switch_fiber(last ? nullptr : &f.fake_stack, scheduler_stack, scheduler_stack_size);
  swapcontext(&f.context, &scheduler);
  __sanitizer_finish_switch_fiber(f.fake_stack, nullptr, nullptr);
#elif defined(CUDASIM_TSAN)
  __tsan_switch_to_fiber(scheduler_tsan, NO_SYNC);
  swapcontext(&f.context, &scheduler);
#else
  if (!_setjmp(f.jump)) _longjmp(scheduler_jump, 1);
#endif
}

static void start() {
#ifdef CUDASIM_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  __tsan_acquire(&start_tag);
  (*body)();
  __tsan_release(&end_tag);
  fibers[current].state = Fiber::DONE;
  const Copies& copies = fibers[current].copies;
  if (!copies.open.empty() || !copies.groups.empty()) fail("a thread ended with copies that it never waited for");
  to_scheduler(true);
}

static void resume(int i) {
  Fiber& f = fibers[i];
  current = i;
  threadIdx = {(unsigned)i, 0, 0};
#if defined(CUDASIM_ASAN)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, f.stack, STACK);
  swapcontext(&scheduler, &f.context);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#elif defined(CUDASIM_TSAN)
  __tsan_switch_to_fiber(f.tsan, NO_SYNC);
  swapcontext(&scheduler, &f.context);
#else
  if (_setjmp(scheduler_jump)) return;
  if (f.started) _longjmp(f.jump, 1);
  f.started = true;
  setcontext(&f.context);
#endif
}

void barrier(int line) {
  __tsan_release(&barrier_tag);
  fibers[current].state = Fiber::AT_BARRIER;
  fibers[current].line = line;
  to_scheduler(false);
  __tsan_acquire(&barrier_tag);
}

static void arrange(std::vector<int>& indices) {
  std::iota(indices.begin(), indices.end(), 0);
  const int count = (int)indices.size();
  for (int i = 0; order == 1 && i < count / 2; ++i) std::swap(indices[i], indices[count - 1 - i]);
  for (int i = count - 1; order == 2 && i > 0; --i) {
    random_state = random_state * 1664525u + 1013904223u;
    std::swap(indices[i], indices[(random_state >> 8) % (i + 1)]);
  }
}

static void run_block(size_t shared) {
#ifdef CUDASIM_TSAN  // malloc and memset are intercepted, and would look like accesses of the scheduler's
  static unsigned char arena[64 << 20] __attribute__((aligned(128)));
  static size_t used;  // every block gets fresh bytes: with no history, none of it races
  memory = arena + used;
  used += (shared + 127) / 128 * 128;
  if (used > sizeof arena) fail("too many blocks for the thread sanitizer's arena");
  for (size_t i = 0; i < shared; ++i) ((volatile unsigned char*)memory)[i] = 0xff;
#else
  memory = (unsigned char*)malloc(shared);  // a block of exactly this size, so that the sanitizer sees its end
  memset(memory, 0xff, shared);
#endif
  for (Fiber& f : fibers) {
    f.state = Fiber::READY, f.started = false, f.fake_stack = nullptr;
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack, f.context.uc_stack.ss_size = STACK, f.context.uc_link = nullptr;
    makecontext(&f.context, start, 0);
  }
  std::vector<int> turn(fibers.size());
  for (bool running = true; running;) {
    arrange(turn);
    for (int i : turn) resume(i);
    running = false;
    for (const Fiber& f : fibers) running |= f.state != Fiber::DONE;
    for (Fiber& f : fibers) {  // all are at a barrier or done
      if (running && f.state == Fiber::DONE) fail("a thread ended while others wait at a barrier");
      if (running && f.line != fibers[0].line) fail("threads of a block wait at different barriers");
      if (running) f.state = Fiber::READY;
    }
  }
#ifndef CUDASIM_TSAN
  free(memory);
#endif
}

void launch(unsigned grid, unsigned block, size_t shared, const std::function<void()>& kernel) {
  gridDim = {grid, 1, 1}, blockDim = {block, 1, 1};
  if (block < 1 || block > 1024 || grid < 1 || grid > 0x7fffffffu || shared > (227u << 10)) fail("outside the launch limits");
  body = &kernel;
  fibers = std::vector<Fiber>(block);
  for (Fiber& f : fibers) f.stack = (char*)malloc(STACK);
#ifdef CUDASIM_TSAN
  __tsan_release(&start_tag);
  scheduler_tsan = __tsan_get_current_fiber();
  for (Fiber& f : fibers) f.tsan = __tsan_create_fiber(0);
#endif
  std::vector<int> blocks(grid);
  arrange(blocks);
  for (int i : blocks) {
    blockIdx = {(unsigned)i, 0, 0};
    run_block(shared);
  }
  __tsan_acquire(&end_tag);
  for (Fiber& f : fibers) {
#ifdef CUDASIM_TSAN
    __tsan_destroy_fiber(f.tsan);
#endif
    free(f.stack);
  }
  fibers.clear();
}
}  // namespace cudasim

extern "C" void set_order(int order) {
  cudasim::order = order;
  cudasim::random_state = 7;
}
