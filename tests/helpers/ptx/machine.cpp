// Executes a kernel's PTX, instruction by instruction, and watches what each thread does to memory.
//
// A thread runs until it meets a barrier; when all have, the next interval begins. Every register and every two bytes of
// memory know whether they hold something: what nobody wrote is poison, which may be loaded and moved, but not stored in
// global memory, nor be an address or a predicate. The first fault ends the launch. What is a fault:
//   an address that is not a multiple of the access's size, that lies outside of the tensors or of shared memory
//   shared memory   two threads at one place between two barriers, one of them writing; copies not waited for
//   global memory   two threads that write one place; reading what another thread writes, or by ld.global.nc what any does
//   barriers        threads of a block at different ones, or some at none
#include <algorithm>
#include <numeric>
#include <random>

#include "memory.h"

enum Special { BRANCH, RETURN, BARRIER, LOAD, STORE, COPY, COMMIT, WAIT, PACK, UNPACK, SPECIAL };
enum Space { GLOBAL, CONSTANT, SHARED, PARAMETER };
static const char* special_names[SPECIAL] = {"branch", "return", "barrier", "load", "store", "copy", "commit", "wait", "pack", "unpack"};
static const u64 LONGEST = 200000000;  // instructions of a thread between two barriers
enum { TID, NTID, CTAID, NCTAID, SPECIAL_REGISTERS };

extern "C" {
// The following as ptx_machine.py and ptx_code.py have them, field by field.
struct Instruction {
  s32 operation, predicate, negated, target;     // predicate: its register, or -1
  s32 result, sources[3];                        // registers; constants have some too
  s32 lanes[4], count, bytes, is_signed, space;  // of memory and of packing: registers, how many, the size of one
  s32 number;                                    // bytes beyond an address; of a copy; groups that a wait leaves open
};
struct Kernel {
  const Instruction* code;
  const u64* constants;
  s32 registers, constant_count;  // constants follow the registers and the special ones
  s64* executed;  // by threads, of each instruction; those that its predicate turned off not
};
struct Launch {
  Buffer* buffers;
  const u8* parameters;
  s32 buffer_count, parameter_bytes;
  u32 grid, block, shared, order;  // order of threads and blocks: 0 ascending, 1 descending, 2 shuffled
};
}

struct Copy { u32 to; u64 from; u32 bytes, exist; };
struct Thread {
  enum { READY, WAITING, DONE } state = READY;
  s32 at = 0;
  u64* values;
  u8* poisoned;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

static const Operations named = operations();
static const std::vector<Operation> table = [] {
  std::vector<Operation> found;
  for (const auto& [name, operation] : named) found.push_back(operation);
  return found;
}();

class Machine {
 public:
  u32 block = 0, thread = 0;
  s32 at = 0;  // the instruction

  Machine(const Kernel& kernel, const Launch& launch)
      : kernel(kernel), launch(launch), shared(launch.shared), global(launch.buffers, launch.buffer_count, launch.block) {
    slots = kernel.registers + SPECIAL_REGISTERS + kernel.constant_count;
    values.resize((size_t)slots * launch.block), poisoned.resize(values.size()), threads.resize(launch.block);
  }

  void run() {
    threads_order = arranged(launch.block);
    for (u32 each : arranged(launch.grid)) run_block(each);
  }

 private:
  const Kernel& kernel;
  const Launch& launch;
  SharedMemory shared;
  GlobalMemory global;
  std::vector<u64> values;
  std::vector<u8> poisoned;
  std::vector<Thread> threads;
  std::vector<u32> threads_order;
  size_t slots;

  std::vector<u32> arranged(u32 count) const {
    std::vector<u32> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0);
    if (launch.order == 1) std::reverse(numbers.begin(), numbers.end());
    if (launch.order == 2) std::shuffle(numbers.begin(), numbers.end(), std::mt19937(1));
    return numbers;
  }

  void run_block(u32 number) {
    block = number, ++shared.interval;
    shared.clear();
    std::fill(poisoned.begin(), poisoned.end(), 1);
    for (u32 i = 0; i < launch.block; ++i) {
      Thread& t = threads[i] = Thread();
      t.values = &values[i * slots], t.poisoned = &poisoned[i * slots];
      u64* special = t.values + kernel.registers;
      special[TID] = i, special[NTID] = launch.block, special[CTAID] = block, special[NCTAID] = launch.grid;
      std::copy(kernel.constants, kernel.constants + kernel.constant_count, special + SPECIAL_REGISTERS);
      std::fill(t.poisoned + kernel.registers, t.poisoned + slots, 0);
    }
    do {
      for (u32 i : threads_order)
        if (threads[i].state == Thread::READY) thread = i, run_thread(threads[i]);
      ++shared.interval;
    } while (pass_barrier());
  }

  bool pass_barrier() {  // whether there was one
    const Thread& first = threads[0];
    for (u32 i = 1; i < launch.block; ++i)
      if (threads[i].state != first.state || (first.state == Thread::WAITING && threads[i].at != first.at)) {
        thread = first.state == Thread::WAITING ? 0 : i, at = threads[thread].at - 1;
        fault("barrier-divergence: threads 0 and %u are not at the same barrier", i);
      }
    for (Thread& t : threads)
      if (t.state == Thread::WAITING) t.state = Thread::READY;
    return first.state == Thread::READY;
  }

  u32 number_in_grid() const { return block * launch.block + thread; }

  static u64 address_of(const Thread& t, s32 slot) {
    if (t.poisoned[slot]) fault("uninitialised: an address");
    return t.values[slot];
  }

  void run_thread(Thread& t) {
    for (u64 executed = 0;; ++executed) {
      if (executed == LONGEST) fault("endless: %llu instructions without a barrier", (unsigned long long)LONGEST);
      at = t.at++;
      const Instruction& q = kernel.code[at];
      if (q.predicate >= 0) {
        if (t.poisoned[q.predicate]) fault("uninitialised: a predicate");
        if ((t.values[q.predicate] & 1) == (u64)q.negated) continue;
      }
      ++kernel.executed[at];
      switch (q.operation) {
        case BRANCH: t.at = q.target; break;
        case BARRIER: t.state = Thread::WAITING; return;
        case RETURN:
          for (const auto& group : t.groups) t.open.insert(t.open.end(), group.begin(), group.end());
          if (!t.open.empty()) fault("copy-pending: the thread ends with %zu copies that it did not wait for", t.open.size());
          t.state = Thread::DONE;
          return;
        case LOAD: load(t, q); break;
        case STORE: store(t, q); break;
        case COPY: copy(t, q); break;
        case COMMIT: t.groups.push_back(std::move(t.open)), t.open.clear(); break;
        case WAIT: wait(t, q.number); break;
        case PACK: pack(t, q); break;
        case UNPACK: unpack(t, q); break;
        default: compute(t, q);
      }
    }
  }

  void compute(Thread& t, const Instruction& q) const {
    const Operation& operation = table[q.operation - SPECIAL];
    const s32* s = q.sources;
    const u64 a = t.values[s[0]], b = t.values[s[1]], c = t.values[s[2]];
    const bool pa = t.poisoned[s[0]], pb = t.poisoned[s[1]], pc = t.poisoned[s[2]];
    t.values[q.result] = operation.compute(a, b, c);
    bool poison = pa | pb | pc;
    if (operation.poison == Poison::SELECTED) poison = pc || (c & 1 ? pa : pb);
    if (operation.poison == Poison::AND) poison = poison && (pa || a & 1) && (pb || b & 1);
    if (operation.poison == Poison::OR) poison = poison && (pa || !(a & 1)) && (pb || !(b & 1));
    t.poisoned[q.result] = poison;
  }

  void load(Thread& t, const Instruction& q) {
    const u64 address = address_of(t, q.sources[0]) + (s64)q.number;
    need_multiple(address, q.bytes * q.count);
    for (s32 i = 0; i < q.count; ++i) {
      const u64 from = address + i * q.bytes;
      u64 value = 0;
      bool poison = false;
      if (q.space == SHARED) poison = shared.read(thread, shared.offset_of(from, q.bytes), q.bytes, (u8*)&value);
      else if (q.space != PARAMETER) poison = global.read(number_in_grid(), from, q.bytes, q.space == CONSTANT, (u8*)&value);
      else if (from + q.bytes > (u64)launch.parameter_bytes) fault("parameter-out-of-bounds: %d bytes at %lld", q.bytes, (long long)from);
      else memcpy(&value, launch.parameters + from, q.bytes);
      const int unused = 64 - 8 * q.bytes;
      t.values[q.lanes[i]] = q.is_signed ? (u64)((s64)(value << unused) >> unused) : value;
      t.poisoned[q.lanes[i]] = poison;
    }
  }

  void store(Thread& t, const Instruction& q) {
    const u64 address = address_of(t, q.sources[0]) + (s64)q.number;
    need_multiple(address, q.bytes * q.count);
    for (s32 i = 0; i < q.count; ++i) {
      const u64 to = address + i * q.bytes, *value = &t.values[q.lanes[i]];
      const bool poison = t.poisoned[q.lanes[i]];
      if (q.space == SHARED) shared.write(thread, shared.offset_of(to, q.bytes), q.bytes, value, SharedMemory::HELD, poison);
      else if (poison) fault("uninitialised: a value that goes to global memory");
      else global.write(number_in_grid(), to, q.bytes, value);
    }
  }

  // cp.async: the bytes arrive when the thread waits for their group; zeros in place of those that do not exist.
  void copy(Thread& t, const Instruction& q) {
    const u32 bytes = q.number, exist = (u32)address_of(t, q.sources[2]);
    const u32 to = shared.offset_of(address_of(t, q.sources[0]), bytes);
    const u64 from = address_of(t, q.sources[1]);
    need_multiple(from, bytes);
    if (exist > bytes) fault("copy-size: %u of %u bytes", exist, bytes);
    u64 cell;
    global.find(from, std::max(exist, 1u), &cell);  // PTX asks less where no byte exists
    shared.write(thread, to, bytes, nullptr, SharedMemory::ARRIVING, false);
    t.open.push_back({to, from, bytes, exist});
  }

  void wait(Thread& t, size_t open) {
    for (; t.groups.size() > open; t.groups.erase(t.groups.begin()))
      for (const Copy& c : t.groups.front()) {
        u8 data[16] = {};
        const bool poison = c.exist && global.read(number_in_grid(), c.from, c.exist, true, data);
        shared.arrive(thread, c.to, c.bytes, data, poison);
      }
  }

  static void pack(Thread& t, const Instruction& q) {
    u64 value = 0;
    u8 poison = 0;
    for (s32 i = 0; i < q.count; ++i) {
      value |= (t.values[q.lanes[i]] & ((1ull << 8 * q.bytes) - 1)) << 8 * q.bytes * i;
      poison |= t.poisoned[q.lanes[i]];
    }
    t.values[q.result] = value, t.poisoned[q.result] = poison;
  }

  static void unpack(Thread& t, const Instruction& q) {
    const u64 value = t.values[q.sources[0]];
    const u8 poison = t.poisoned[q.sources[0]];
    for (s32 i = 0; i < q.count; ++i) {
      t.values[q.lanes[i]] = value >> 8 * q.bytes * i & ((1ull << 8 * q.bytes) - 1);
      t.poisoned[q.lanes[i]] = poison;
    }
  }
};

extern "C" int number_of(const char* name) {  // of an operation; -1 where there is none
  for (int i = 0; i < SPECIAL; ++i)
    if (special_names[i] == std::string(name)) return i;
  const auto found = named.find(name);
  return found == named.end() ? -1 : SPECIAL + (int)std::distance(named.begin(), found);
}

extern "C" u64 compute(int operation, u64 a, u64 b, u64 c) { return table[operation - SPECIAL].compute(a, b, c); }

extern "C" u32 shared_base() { return SharedMemory::BASE; }

// Returns the instruction that a fault ended the launch at, and says what it was; -1 where there was none.
extern "C" int run(const Kernel* kernel, const Launch* launch, char* said, int room) {
  Machine machine(*kernel, *launch);
  std::string what;
  try {
    machine.run();
    return -1;
  } catch (const Fault& fault) {
    what = fault.what;
  } catch (const std::runtime_error& error) {
    what = error.what();
  }
  snprintf(said, room, "%s (block %u, thread %u)", what.c_str(), machine.block, machine.thread);
  return machine.at;
}
