/* urxe's own interface, beside the verbs it serves: what it counted, and faults on purpose. Plain
 * C; a program that only preloads liburxe.so finds the same through URXE_* variables (README.md).
 */
#ifndef URXE_H_
#define URXE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Every protocol event of this process, as URXE_COUNTERS(X) lists it: X(name, meaning). */
#define URXE_COUNTERS(X)                                                             \
  X(packets_sent, "packets put on the wire, retransmissions included")               \
  X(packets_received, "packets with a good ICRC for a queue pair of this process")   \
  X(bytes_sent, "UDP payload bytes put on the wire")                                 \
  X(bytes_received, "UDP payload bytes received")                                    \
  X(send_calls, "system calls that sent packets")                                    \
  X(receive_calls, "system calls that received packets")                             \
  X(doorbells, "calls of post_send and wr_complete")                                 \
  X(wakeups, "times the progress thread woke")                                       \
  X(acks_sent, "ACK packets sent")                                                   \
  X(acks_received, "ACK packets received")                                           \
  X(naks_sent, "NAK packets sent for a missing PSN")                                 \
  X(naks_received, "NAK packets received for a missing PSN")                         \
  X(rnr_naks_sent, "receiver-not-ready NAKs sent")                                   \
  X(rnr_naks_received, "receiver-not-ready NAKs received")                           \
  X(error_naks_sent, "NAKs sent for invalid requests, access and operation errors")  \
  X(error_naks_received, "NAKs received for the same")                               \
  X(retransmits, "packets sent again")                                               \
  X(timeouts, "local ACK timeouts that expired")                                     \
  X(probes, "early retransmissions of one packet, before the ACK timeout")           \
  X(duplicates, "request packets received again")                                    \
  X(out_of_sequence, "packets received with a later PSN than expected")              \
  X(icrc_errors, "packets dropped for a wrong ICRC")                                 \
  X(malformed, "datagrams dropped since they are no packet this device takes")       \
  X(unknown_queue_pairs, "packets dropped since no queue pair of ours expects them") \
  X(relayed, "packets that reached this process but belong to another one")          \
  X(faults_dropped, "packets dropped on purpose")                                    \
  X(faults_duplicated, "packets duplicated on purpose")                              \
  X(faults_reordered, "packets reordered on purpose")                                \
  X(faults_delayed, "packets delayed on purpose")                                    \
  X(faults_corrupted, "packets corrupted on purpose")                                \
  X(local_connections, "queue pairs that write straight into their peer's memory")   \
  X(udp_connections, "queue pairs that send packets")                                \
  X(local_operations, "work requests carried out by the same-host path")             \
  X(local_bytes, "bytes copied by the same-host path")                               \
  X(local_refusals, "same-host peers reached by UDP: copying was not permitted")     \
  X(placed_bytes, "payload bytes copied from packets into registered memory")

struct urxe_counters {
#define URXE_FIELD(name, meaning) uint64_t name;
  URXE_COUNTERS(URXE_FIELD)
#undef URXE_FIELD
};

/* What this process's urxe devices counted since it started. `size` is sizeof(*counters), so that
 * later versions can add fields. Returns 0, or EINVAL. */
int urxe_read_counters(struct urxe_counters* counters, size_t size);

/* The same of another process of this user on this host. Returns 0; ENOENT when process `pid` has
 * no urxe device open, EACCES when this user may not look. */
int urxe_read_counters_of(int pid, struct urxe_counters* counters, size_t size);

/* Sets the faults of all devices of this process, as URXE_FAULTS does:
 * "drop=0.01,duplicate=0.001,reorder=0.01,corrupt=0.001,delay=0.01:500us,seed=7"; rates are
 * probabilities per sent packet; "" ends all. Returns 0, or EINVAL for text that cannot be read. */
int urxe_set_faults(const char* faults);

/* The bytes [address, address + length) of the region that `qp`'s peer registered as `rkey` with
 * IBV_ACCESS_REMOTE_READ, in this process's address space, when the peer is on this host and its
 * memory is in a file that can be mapped (a memfd sealed against shrinking, or URXE_SHARE=on
 * there); else NULL. What the peer stored before a SEND or a write with immediate is visible after
 * its completion here. Valid until the peer ends the region. */
struct ibv_qp;
const void* urxe_map_for_reading(struct ibv_qp* qp, uint32_t rkey, uint64_t address, size_t length);

/* Nonzero when the named device is urxe's rather than the system's. */
struct ibv_context;
int urxe_is_urxe(const struct ibv_context* context);

#ifdef __cplusplus
}
#endif

#endif /* URXE_H_ */
