// What the arithmetic instructions of PTX compute, each by its name, from the PTX ISA (version 9). Registers are 64 bits
// wide; of a narrower type only the low bits count. Written for IEEE hardware with rounding to nearest.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;
typedef int64_t s64;
typedef int32_t s32;
typedef int16_t s16;
typedef int8_t s8;

// From what a result is poisoned: any source; of a selection the condition and what it selects; of "and" and "or" a
// source that is clean and decides does not let the other through.
enum class Poison { ANY, SELECTED, AND, OR };
struct Operation {
  u64 (*compute)(u64 a, u64 b, u64 c);
  Poison poison = Poison::ANY;
};
typedef std::map<std::string, Operation> Operations;

template <class T> T as(u64 bits) { T value; memcpy(&value, &bits, sizeof value); return value; }
template <class T> u64 bits_of(T value) { u64 bits = 0; memcpy(&bits, &value, sizeof value); return bits; }

#define OPERATION(name, expression) \
  table[name].compute = [](u64 a_, u64 b_, u64 c_) -> u64 { const T a = as<T>(a_), b = as<T>(b_), c = as<T>(c_); (void)a, (void)b, (void)c; return (expression); }

template <class T> T divisor(T b) { if (b == 0) throw std::runtime_error("division by zero"); return b; }
// The most negative number by -1 stays what it is.
template <class T> T quotient(T a, T b) { return std::is_signed<T>::value && divisor(b) == (T)-1 ? (T)(0 - (u64)a) : (T)(a / divisor(b)); }
template <class T> T remainder(T a, T b) { return std::is_signed<T>::value && divisor(b) == (T)-1 ? 0 : (T)(a % divisor(b)); }
template <class T> T left(T a, u32 by) { return by >= 8 * sizeof(T) ? 0 : (T)((u64)a << by); }
template <class T> T right(T a, u32 by) { return by < 8 * sizeof(T) ? (T)(a >> by) : std::is_signed<T>::value && a < 0 ? (T)-1 : 0; }

template <class T> void untyped(Operations& table, const std::string& type) {  // .b16, .b32, .b64
  OPERATION("and." + type, bits_of<T>(a & b));
  OPERATION("or." + type, bits_of<T>(a | b));
  OPERATION("xor." + type, bits_of<T>(a ^ b));
  OPERATION("not." + type, bits_of<T>(~a));
  OPERATION("shl." + type, bits_of<T>(left<T>(a, (u32)b_)));
  OPERATION("shr." + type, bits_of<T>(right<T>(a, (u32)b_)));
}

template <class T> void moved(Operations& table, const std::string& type) {
  OPERATION("mov." + type, bits_of<T>(a));
  OPERATION("selp." + type, bits_of<T>(c_ & 1 ? a : b));
  table["selp." + type].poison = Poison::SELECTED;
}

template <class T> void compared(Operations& table, const std::string& type) {
  OPERATION("setp.eq." + type, a == b);
  OPERATION("setp.ne." + type, a < b || a > b);
  OPERATION("setp.lt." + type, a < b);
  OPERATION("setp.le." + type, a <= b);
  OPERATION("setp.gt." + type, a > b);
  OPERATION("setp.ge." + type, a >= b);
}

template <class T> void integers(Operations& table, const std::string& type) {  // .s16 to .u64
  OPERATION("add." + type, bits_of<T>((T)((u64)a + (u64)b)));
  OPERATION("sub." + type, bits_of<T>((T)((u64)a - (u64)b)));
  OPERATION("mul.lo." + type, bits_of<T>((T)((u64)a * (u64)b)));
  OPERATION("mad.lo." + type, bits_of<T>((T)((u64)a * (u64)b + (u64)c)));
  OPERATION("neg." + type, bits_of<T>((T)(0 - (u64)a)));
  OPERATION("abs." + type, bits_of<T>(a < 0 ? (T)(0 - (u64)a) : a));
  OPERATION("min." + type, bits_of<T>(a < b ? a : b));
  OPERATION("max." + type, bits_of<T>(a > b ? a : b));
  OPERATION("div." + type, bits_of<T>(quotient<T>(a, b)));
  OPERATION("rem." + type, bits_of<T>(remainder<T>(a, b)));
  OPERATION("shr." + type, bits_of<T>(right<T>(a, (u32)b_)));
  moved<T>(table, type), compared<T>(table, type);
}

template <class T, class Wide> void wide(Operations& table, const std::string& type) {  // twice as wide a product
  OPERATION("mul.wide." + type, bits_of<Wide>((Wide)a * (Wide)b));
  OPERATION("mad.wide." + type, bits_of<Wide>((Wide)((u64)((Wide)a * (Wide)b) + c_)));
  OPERATION("mul.hi." + type, bits_of<T>((T)((Wide)((Wide)a * (Wide)b) >> 8 * sizeof(T))));
}

template <class T> T flushed(T value) { return std::fabs(value) < std::numeric_limits<T>::min() ? std::copysign((T)0, value) : value; }
template <class T, bool FTZ> T in(T value) { return FTZ ? flushed(value) : value; }
template <class T, bool FTZ> u64 out(T value) { return bits_of<T>(FTZ ? flushed(value) : value); }

// `ftz` is ".ftz", under which numbers below the smallest normal one are read and written as zeros, or nothing.
template <class T, bool FTZ> void floats(Operations& table, const std::string& ftz, const std::string& type) {
#define A in<T, FTZ>(a)
#define B in<T, FTZ>(b)
#define C in<T, FTZ>(c)
#define FLOAT(name, expression) OPERATION(name, (out<T, FTZ>(expression)))
  for (const std::string rounding : {"", ".rn"}) {
    FLOAT("add" + rounding + ftz + type, A + B);
    FLOAT("sub" + rounding + ftz + type, A - B);
    FLOAT("mul" + rounding + ftz + type, A * B);
  }
  FLOAT("fma.rn" + ftz + type, std::fma(A, B, C));
  FLOAT("div.rn" + ftz + type, A / B);
  FLOAT("rcp.rn" + ftz + type, (T)1 / A);
  FLOAT("sqrt.rn" + ftz + type, std::sqrt(A));
  FLOAT("neg" + ftz + type, -A);
  FLOAT("abs" + ftz + type, std::fabs(A));
  FLOAT("min" + ftz + type, std::fmin(A, B));
  FLOAT("max" + ftz + type, std::fmax(A, B));
  OPERATION("setp.eq" + ftz + type, A == B);
  OPERATION("setp.ne" + ftz + type, A < B || A > B);
  OPERATION("setp.lt" + ftz + type, A < B);
  OPERATION("setp.le" + ftz + type, A <= B);
  OPERATION("setp.gt" + ftz + type, A > B);
  OPERATION("setp.ge" + ftz + type, A >= B);
  OPERATION("setp.equ" + ftz + type, !(A < B || A > B));  // and the same where one is not a number
  OPERATION("setp.neu" + ftz + type, A != B);
  OPERATION("setp.ltu" + ftz + type, !(A >= B));
  OPERATION("setp.leu" + ftz + type, !(A > B));
  OPERATION("setp.gtu" + ftz + type, !(A <= B));
  OPERATION("setp.geu" + ftz + type, !(A < B));
  OPERATION("setp.nan" + ftz + type, A != A || B != B);
  OPERATION("setp.num" + ftz + type, A == A && B == B);
#undef A
#undef B
#undef C
#undef FLOAT
}

// To the nearest of the numbers with 8 significant bits, ties to the even one: by arithmetic, not by bits.
inline u16 bfloat16_of(float value) {
  if (std::isnan(value)) return 0x7fff;
  if (std::isinf(value) || value == 0) return (u16)(bits_of(value) >> 16);
  int exponent;
  std::frexp(value, &exponent);
  const int unit = std::max(exponent - 8, -133);  // 2^-133 is the smallest number
  return (u16)(bits_of((float)std::ldexp(std::nearbyint(std::ldexp((double)value, -unit)), unit)) >> 16);
}

template <class From, class To> void converted(Operations& table, const std::string& name) {
  typedef From T;
  OPERATION("cvt." + name, bits_of<To>((To)a));
}

inline void conversions(Operations& table) {
  converted<s32, s64>(table, "s64.s32"), converted<u32, u64>(table, "u64.u32"), converted<u16, u64>(table, "u64.u16");
  converted<s16, s32>(table, "s32.s16"), converted<u16, u32>(table, "u32.u16"), converted<s16, s64>(table, "s64.s16");
  converted<u64, u32>(table, "u32.u64"), converted<s64, s32>(table, "s32.s64"), converted<u32, u16>(table, "u16.u32");
  converted<u64, u16>(table, "u16.u64"), converted<s8, s16>(table, "s16.s8"), converted<u8, u16>(table, "u16.u8");
  converted<s8, s32>(table, "s32.s8"), converted<s8, s64>(table, "s64.s8"), converted<u8, u32>(table, "u32.u8"), converted<u32, u8>(table, "u8.u32");
  converted<s32, float>(table, "rn.f32.s32"), converted<u32, float>(table, "rn.f32.u32");
  converted<s64, float>(table, "rn.f32.s64"), converted<u64, float>(table, "rn.f32.u64");
  converted<s32, double>(table, "rn.f64.s32"), converted<u32, double>(table, "rn.f64.u32");
  converted<s64, double>(table, "rn.f64.s64"), converted<u64, double>(table, "rn.f64.u64");
  converted<float, double>(table, "f64.f32"), converted<double, float>(table, "rn.f32.f64");
  converted<_Float16, float>(table, "f32.f16"), converted<float, _Float16>(table, "rn.f16.f32");
  table["cvt.ftz.f32.f16"] = table["cvt.f32.f16"];  // all halves are normal as floats
  typedef float T;
  OPERATION("cvt.ftz.f64.f32", bits_of((double)flushed(a)));
  OPERATION("cvt.rn.ftz.f16.f32", bits_of((_Float16)flushed(a)));
  OPERATION("cvt.rn.bf16.f32", bits_of(bfloat16_of(a)));
  table["cvt.rn.ftz.f32.f64"].compute = [](u64 a, u64, u64) { return bits_of(flushed((float)as<double>(a))); };
  table["cvt.f32.bf16"].compute = [](u64 a, u64, u64) { return (u64)(u16)a << 16; };
}

static const u64 SHARED_WINDOW = 0x7f00000000000000;  // where shared memory lies among generic addresses

inline Operations operations() {
  Operations table;
  untyped<u16>(table, "b16"), untyped<u32>(table, "b32"), untyped<u64>(table, "b64");
  moved<u16>(table, "b16"), moved<u32>(table, "b32"), moved<u64>(table, "b64");
  compared<u16>(table, "b16"), compared<u32>(table, "b32"), compared<u64>(table, "b64");
  integers<s16>(table, "s16"), integers<u16>(table, "u16"), integers<s32>(table, "s32"), integers<u32>(table, "u32");
  integers<s64>(table, "s64"), integers<u64>(table, "u64");
  wide<s16, s32>(table, "s16"), wide<u16, u32>(table, "u16"), wide<s32, s64>(table, "s32"), wide<u32, u64>(table, "u32");
  wide<s64, __int128>(table, "s64"), wide<u64, unsigned __int128>(table, "u64");
  floats<float, false>(table, "", ".f32"), floats<float, true>(table, ".ftz", ".f32"), floats<double, false>(table, "", ".f64");
  moved<float>(table, "f32"), moved<double>(table, "f64");
  conversions(table);
  typedef u64 T;
  OPERATION("mov.pred", a & 1);
  OPERATION("not.pred", ~a & 1);
  OPERATION("xor.pred", (a ^ b) & 1);
  OPERATION("and.pred", a & b & 1);
  OPERATION("or.pred", (a | b) & 1);
  table["and.pred"].poison = Poison::AND, table["or.pred"].poison = Poison::OR;
  // two halves of a by the lower two bytes of b, and c
  OPERATION("dp2a.lo.u32.u32", (u32)((u16)a * (u32)(u8)b + (u16)(a >> 16) * (u32)(u8)(b >> 8) + (u32)c));
  OPERATION("cvta.to.global.u64", a);
  OPERATION("cvta.global.u64", a);
  OPERATION("cvta.to.shared.u64", a - SHARED_WINDOW);
  OPERATION("cvta.shared.u64", a + SHARED_WINDOW);
  return table;
}
