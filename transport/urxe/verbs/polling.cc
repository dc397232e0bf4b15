// ibv_cq_ex: completions read field by field.
#include <time.h>

#include <cerrno>

#include "transport/urxe/verbs/context.h"

namespace urxe {
namespace {

uint64_t Nanoseconds(clockid_t clock) {
  timespec time = {};
  clock_gettime(clock, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000 + static_cast<uint64_t>(time.tv_nsec);
}

// Takes one completion into `current`, or none waits: ENOENT.
int Next(CompletionQueue& cq) {
  const int taken = Take(cq, 1, &cq.current);
  if (taken < 0) return EIO;
  if (taken == 0) return ENOENT;
  cq.status = cq.current.wc.status;
  cq.wr_id = cq.current.wc.wr_id;
  return 0;
}

void EndPoll(ibv_cq_ex* base) {
  CompletionQueue& cq = Urxe(base);
  if (!cq.single_threaded) cq.polling.unlock();
}

int StartPoll(ibv_cq_ex* base, ibv_poll_cq_attr* attributes) {
  if (attributes != nullptr && attributes->comp_mask != 0) return EINVAL;
  CompletionQueue& cq = Urxe(base);
  if (cq.waiting.load(std::memory_order_acquire) == 0) cq.engine->TryProgress();
  // Not the queue's own lock: a program may post between start_poll and end_poll, and posting takes
  // the engine's lock, which comes before it.
  if (!cq.single_threaded) cq.polling.lock();
  const int error = Next(cq);
  if (error != 0) {
    EndPoll(base);  // programs call end_poll only after a success
    YieldAtTimes();
  }
  return error;
}

int NextPoll(ibv_cq_ex* base) { return Next(Urxe(base)); }

ibv_wc_opcode ReadOpcode(ibv_cq_ex* cq) { return Urxe(cq).current.wc.opcode; }
uint32_t ReadVendorError(ibv_cq_ex* cq) { return Urxe(cq).current.wc.vendor_err; }
uint32_t ReadByteLength(ibv_cq_ex* cq) { return Urxe(cq).current.wc.byte_len; }
__be32 ReadImmediate(ibv_cq_ex* cq) { return Urxe(cq).current.wc.imm_data; }
uint32_t ReadQpNumber(ibv_cq_ex* cq) { return Urxe(cq).current.wc.qp_num; }
uint32_t ReadSourceQp(ibv_cq_ex* cq) { return Urxe(cq).current.wc.src_qp; }
unsigned ReadFlags(ibv_cq_ex* cq) { return Urxe(cq).current.wc.wc_flags; }
uint32_t ReadSourceLid(ibv_cq_ex* cq) { return Urxe(cq).current.wc.slid; }
uint8_t ReadServiceLevel(ibv_cq_ex* cq) { return Urxe(cq).current.wc.sl; }
uint8_t ReadPathBits(ibv_cq_ex* cq) { return Urxe(cq).current.wc.dlid_path_bits; }
uint64_t ReadTimestamp(ibv_cq_ex* cq) { return Urxe(cq).current.timestamp; }
uint64_t ReadWallclock(ibv_cq_ex* cq) {
  const uint64_t age = Nanoseconds(CLOCK_MONOTONIC) - Urxe(cq).current.timestamp;
  return Nanoseconds(CLOCK_REALTIME) - age;
}

}  // namespace

void SetPolling(CompletionQueue& cq) {
  cq.start_poll = StartPoll;
  cq.next_poll = NextPoll;
  cq.end_poll = EndPoll;
  cq.read_opcode = ReadOpcode;
  cq.read_vendor_err = ReadVendorError;
  cq.read_byte_len = ReadByteLength;
  cq.read_imm_data = ReadImmediate;
  cq.read_qp_num = ReadQpNumber;
  cq.read_src_qp = ReadSourceQp;
  cq.read_wc_flags = ReadFlags;
  cq.read_slid = ReadSourceLid;
  cq.read_sl = ReadServiceLevel;
  cq.read_dlid_path_bits = ReadPathBits;
  cq.read_completion_ts = ReadTimestamp;
  cq.read_completion_wallclock_ns = ReadWallclock;
  // Not claimed, and refused by ibv_create_cq_ex; a program that reads them all the same gets zero.
  cq.read_cvlan = [](ibv_cq_ex*) { return uint16_t{0}; };
  cq.read_flow_tag = [](ibv_cq_ex*) { return 0u; };
  cq.read_tm_info = [](ibv_cq_ex*, ibv_wc_tm_info* info) { *info = {}; };
}

}  // namespace urxe
