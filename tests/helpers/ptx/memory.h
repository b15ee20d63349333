// What a block sees of memory, with a shadow of every two bytes: whether they hold something, and who was there.
#pragma once
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "operations.h"

struct Fault { std::string what; };
template <class... Values> [[noreturn]] void fault(const char* format, Values... values) {
  char text[200];
  snprintf(text, sizeof text, format, values...);
  throw Fault{text};
}

inline void need_multiple(u64 address, u32 bytes) {
  if (address % bytes) fault("misaligned: %u bytes at %#llx", bytes, (unsigned long long)address);
}

// Between two barriers, an interval, threads may not meet at one place where one of them writes.
class SharedMemory {
 public:
  static const u32 BASE = 1040;  // a multiple of 16 and of no more: what PTX promises for `.align 16`
  enum State : u8 { EMPTY, HELD, ARRIVING };
  u32 interval = 0;

  explicit SharedMemory(u32 bytes) : data(bytes) {}

  void clear() {
    cells.assign((data.size() + 1) / 2, Cell());
    std::fill(data.begin(), data.end(), 0xff);
  }

  u32 offset_of(u64 address, u32 bytes) const {
    need_multiple(address, bytes);
    if (address < BASE || address - BASE + bytes > data.size())
      fault("shared-out-of-bounds: %u bytes at %lld of %zu", bytes, (long long)(address - BASE), data.size());
    return (u32)(address - BASE);
  }

  bool read(u32 thread, u32 offset, u32 bytes, u8* into) {  // whether what is read is poison
    bool poison = false;
    for (u32 i = offset / 2; i < (offset + bytes) / 2; ++i) {
      Cell& cell = cells[i];
      if (cell.state == ARRIVING) fault("copy-pending: byte %u is read while thread %u copies it", 2 * i, cell.writer);
      if (cell.state == HELD && cell.written == interval && cell.writer != thread)
        fault("shared-race: byte %u is read, thread %u wrote it since the barrier", 2 * i, cell.writer);
      poison |= cell.state == EMPTY || cell.poisoned;
      cell.reader = cell.read == interval && cell.reader != thread ? SEVERAL : (u16)thread, cell.read = interval;
    }
    memcpy(into, &data[offset], bytes);
    return poison;
  }

  // Of nothing where bytes are yet to arrive.
  void write(u32 thread, u32 offset, u32 bytes, const void* from, State state, bool poison) {
    for (u32 i = offset / 2; i < (offset + bytes) / 2; ++i) {
      Cell& cell = cells[i];
      if (cell.state == ARRIVING) fault("copy-pending: byte %u is written while thread %u copies it", 2 * i, cell.writer);
      if (cell.state == HELD && cell.written == interval && cell.writer != thread)
        fault("shared-race: byte %u is written, by thread %u too since the barrier", 2 * i, cell.writer);
      if (cell.read == interval && cell.reader != thread)
        fault("shared-race: byte %u is written, thread %u read it since the barrier", 2 * i, cell.reader);
      cell.state = state, cell.poisoned = poison, cell.writer = (u16)thread, cell.written = interval;
    }
    if (from) memcpy(&data[offset], from, bytes);
  }

  void arrive(u32 thread, u32 offset, u32 bytes, const void* from, bool poison) {
    for (u32 i = offset / 2; i < (offset + bytes) / 2; ++i) cells[i].state = EMPTY;
    write(thread, offset, bytes, from, HELD, poison);
  }

 private:
  static const u16 SEVERAL = 0xffff;
  struct Cell {
    State state = EMPTY;
    bool poisoned = false;
    u16 writer = 0, reader = 0;
    u32 written = 0, read = 0;  // in which interval
  };
  std::vector<u8> data;
  std::vector<Cell> cells;
};

extern "C" struct Buffer {  // the memory of a tensor; as ptx_machine.py has it, field by field
  u64 address;              // the kernel's, far from the others
  u8* data;
  u64 bytes;
  u8* is_written;   // of every two bytes: whether they hold something
  u32* writer;      // of every two bytes: 1 + the thread of the grid that wrote them in this launch
  u32* reader;      // likewise who read them, SEVERAL where more than one did
  u8* is_constant;  // of every two bytes: whether ld.global.nc read them
};

// In a launch no thread may meet what another one writes.
class GlobalMemory {
 public:
  GlobalMemory(Buffer* buffers, int count, u32 block) : buffers(buffers, buffers + count), block(block) {}

  // Which buffer has the bytes, and as which of its cells they begin.
  const Buffer& find(u64 address, u32 bytes, u64* first) const {
    for (const Buffer& b : buffers)
      if (address - b.address < b.bytes && address - b.address + bytes <= b.bytes) {
        *first = (address - b.address) / 2;
        return b;
      }
    fault("global-out-of-bounds: %u bytes at %#llx", bytes, (unsigned long long)address);
  }

  bool read(u32 thread, u64 address, u32 bytes, bool constant, u8* into) const {  // whether what is read is poison
    u64 first;
    const Buffer& b = find(address, bytes, &first);
    bool poison = false;
    for (u64 i = first; i < first + (bytes + 1) / 2; ++i) {
      if (b.writer[i] && (constant || b.writer[i] != thread + 1)) meet(i, constant ? "read as a constant" : "read", b.writer[i]);
      if (constant) b.is_constant[i] = 1;
      b.reader[i] = b.reader[i] && b.reader[i] != thread + 1 ? SEVERAL : thread + 1;
      poison |= !b.is_written[i];
    }
    memcpy(into, b.data + (address - b.address), bytes);
    return poison;
  }

  void write(u32 thread, u64 address, u32 bytes, const u64* value) const {
    u64 first;
    const Buffer& b = find(address, bytes, &first);
    for (u64 i = first; i < first + bytes / 2; ++i) {
      if (b.is_constant[i]) fault("global-race: byte %llu of a tensor is written, and read as a constant", 2 * (unsigned long long)i);
      if (b.writer[i] && b.writer[i] != thread + 1) meet(i, "written", b.writer[i]);
      if (b.reader[i] && b.reader[i] != thread + 1) fault("global-race: byte %llu of a tensor is written, another thread reads it", 2 * (unsigned long long)i);
      b.writer[i] = thread + 1, b.is_written[i] = 1;
    }
    memcpy(b.data + (address - b.address), value, bytes);
  }

 private:
  static const u32 SEVERAL = 0xffffffff;
  std::vector<Buffer> buffers;
  u32 block;  // threads
  [[noreturn]] void meet(u64 cell, const char* what, u32 writer) const {
    fault("global-race: byte %llu of a tensor is %s, thread %u of block %u writes it", 2 * (unsigned long long)cell, what,
          (writer - 1) % block, (writer - 1) / block);
  }
};
