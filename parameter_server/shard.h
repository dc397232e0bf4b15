// One shard: its parameters, what has been pushed to it, and the rules by which pushes become
// updates. No I/O and no clock: whoever runs it hands in slices and asks what may be read.
//
// Order. Under BSP the gradients of a slice are summed in the order of the workers' numbers, so the
// result does not depend on who came first; a slice that comes early waits. Under ASP and SSP each
// slice is an update as soon as it is there.
//
// Repetition. A worker's slice of a step counts once: what it sends again after a broken link is
// recognised and dropped.
//
// Threads. One thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "parameter_server/checkpoint.h"
#include "parameter_server/consistency.h"
#include "parameter_server/layout.h"
#include "parameter_server/optimizer.h"
#include "parameter_server/protocol.h"
#include "parameter_server/shard_options.h"
#include "transport/memory.h"

namespace gradwire::ps {

// Counted since the shard was made.
struct ShardCounters {
  uint64_t slices_applied = 0;   // updates of a slice
  uint64_t gradients_taken = 0;  // slices of workers that entered an update
  uint64_t duplicates = 0;       // slices that had been taken before
  uint64_t workers_lost = 0;
};

class Shard {
 public:
  enum class Taken {
    kTaken,
    kDuplicate,
    kWait,  // BSP: a worker with a lower number comes first; try again after the next update
  };
  // Told of every change, in order, as the request of kind kReplicate that repeats it in another
  // shard: a slice's update with the gradient that the optimizer was given, of one worker or of all
  // (-1); a slice's first values; a step that one worker, or under BSP every worker (-1), has
  // pushed whole; a worker that left.
  using Observer = std::function<void(const Request& change, std::span<const float> values)>;

  // `parameters` holds the shard's elements, [0, end - begin), and outlives the shard.
  static absl::StatusOr<std::unique_ptr<Shard>> Make(const Layout& layout,
                                                     const Placement& placement, int shard,
                                                     std::span<float> parameters,
                                                     const ShardOptions& options);

  void set_observer(Observer observer) { observer_ = std::move(observer); }
  const ShardOptions& options() const { return options_; }
  const std::vector<Slice>& slices() const { return slices_; }
  // The slice's values.
  std::span<float> values(uint32_t slice);
  bool initialized() const { return assigned_ == slices_.size(); }
  const VectorClock& clock() const { return clock_; }
  // The last that every worker has pushed whole; without workers, the last that any of those that
  // left had.
  int64_t step() const { return clock_.size() > 0 ? clock_.Min() : reached_; }
  const ShardCounters& counters() const { return counters_; }

  // --- Members ---
  // A worker takes part from now on, or comes back; returns the last step that counts as pushed by
  // it. FailedPrecondition under BSP once the job has failed.
  // `step` is what a worker knows that loses the primary: it counts when this replica was promoted
  // before it had heard of the worker.
  absl::StatusOr<int64_t> Admit(int64_t worker, int64_t step = -1);
  // It left or was lost; `lost` is empty for an orderly end.
  void Remove(int64_t worker, const std::string& lost);
  // Under BSP with OnLoss::kFail: who was lost; OK before.
  const absl::Status& failure() const { return failure_; }

  // --- Pushes ---
  // Whether the request, whose slices are within slices(), may come now. AlreadyExists for a step
  // that is over, FailedPrecondition for a step out of order or before the first values.
  absl::Status Check(int64_t worker, const Request& request) const;
  // Takes one slice of a request that passed Check(); `values` are its float32 elements.
  Taken Take(int64_t worker, const Request& request, uint32_t slice, std::span<const float> values);
  // Ssp, asp: a worker that has pushed nothing yet pulls as one that stands at `step`. Shards may
  // have admitted it at different steps; where it goes on is for it to say.
  void Announce(int64_t worker, int64_t step);
  // The last slice of a request with kEndOfStep was taken.
  void EndStep(int64_t worker, int64_t step);
  // First values of a slice; ignored when the slice has some.
  void Assign(uint32_t slice, std::span<const float> values);
  // Sum of squares of the sums held for `step` over `range`; not there (< 0) before all workers'
  // gradients are.
  double HeldSquares(const SliceRange& range, int64_t step) const;
  // Applies what is held for `step` times `scale`; once, later calls change nothing.
  void ApplyHeld(const SliceRange& range, int64_t step, float scale);

  // --- Pulls ---
  // Whether a worker that has pushed `step` may read the slice.
  bool Readable(uint32_t slice, int64_t step) const;
  // Who keeps it from being readable; -1: nobody in particular.
  int64_t WaitsFor(uint32_t slice, int64_t step) const;

  // --- As a replica: repeats what the observer of another shard was told ---
  // FailedPrecondition for what a primary of the same consistency would not send; all calls below
  // are for requests that passed.
  absl::Status CheckReplay(const Request& request) const;
  // One slice of the request, then once what it says beside slices.
  void Replay(const Request& change, uint32_t slice, std::span<const float> values);
  void EndReplay(const Request& change);
  // From now on it decides by itself. Workers may be up to a step ahead of what it was told.
  void Promote() { promoted_ = true; }

  // --- Snapshots ---
  // Whether one is due: every worker's step has reached the next multiple of the interval.
  bool SnapshotDue() const;
  // From now on the state as it is now is set aside, slice by slice: a slice that is about to
  // change is copied first. Does nothing while one is being taken.
  void BeginSnapshot();
  // Copies up to `slices` more; the whole snapshot once it is complete, else null.
  std::unique_ptr<ShardSnapshot> ContinueSnapshot(int slices);
  bool snapshot_open() const { return snapshot_ != nullptr; }
  // Takes over values, optimizer state and clocks of a checkpoint.
  absl::Status Restore(const LoadedPieces& loaded);
  // The ranges of tensors that a checkpoint of this shard holds.
  const std::vector<Piece>& pieces() const { return pieces_; }

 private:
  struct SliceState {
    bool assigned = false;
    bool copied = false;       // into the open snapshot
    int64_t step = 0;          // last step applied (BSP); updates applied (ASP, SSP)
    int64_t summing = 0;       // BSP: step whose gradients are being summed, 0: none
    int64_t last_worker = -1;  // BSP: highest number summed, -1: the sum is not begun
    bool hold = false;         // BSP: the sum is not applied before ApplyHeld
    bool complete = false;     // BSP: summed whole, not applied yet
    int64_t squares_step = 0;  // BSP: step of `squares`
    double squares = 0;        // of the last sum that was held
  };
  struct Member {
    std::vector<int64_t> pushed;  // by slice: last step taken
    bool fresh = true;            // has pushed nothing since it came: may begin at any later step
  };

  Shard(const Layout& layout, const Placement& placement, int shard, std::span<float> parameters,
        const ShardOptions& options);
  void Tell(Request change, std::span<const float> values = {});
  void TellClock(int64_t worker, int64_t step, int64_t before);
  // BSP: all workers have left; another job may follow on the same values. What the last one did
  // not finish is dropped.
  void EndJob();
  Taken Sum(int64_t worker, const Request& request, uint32_t slice, std::span<const float> values);
  // The next worker whose gradient the slice's sum wants, -1: none.
  int64_t NextWorker(const SliceState& state) const;
  // The sum of a slice has every worker's gradient.
  void Complete(uint32_t slice);
  // Gives a complete sum to the optimizer, times `scale`; with an optimizer that wants whole
  // pieces, once all of the piece is there.
  void ApplySum(uint32_t slice, float scale);
  void Update(uint32_t slice, int64_t worker, int64_t step, std::span<const float> gradient);
  SliceRange PieceOf(uint32_t slice) const;
  // `gradient` times scale, cut to clip_value; in scratch_ where that changes anything.
  std::span<const float> Condition(std::span<const float> gradient, float scale);
  void CopyToSnapshot(uint32_t slice);
  std::span<float> sum(uint32_t slice);
  size_t offset(uint32_t slice) const;
  size_t count(uint32_t slice) const { return static_cast<size_t>(slices_[slice].count); }

  const int shard_, shards_;
  const int64_t begin_;
  const std::vector<Slice> slices_;
  const std::span<float> parameters_;
  const ShardOptions options_;
  std::vector<Piece> pieces_;
  std::unique_ptr<Optimizer> optimizer_;
  Observer observer_;
  std::vector<SliceState> states_;
  std::vector<float> sums_;     // BSP: by element
  std::vector<float> scratch_;  // one slice
  size_t assigned_ = 0;         // slices that have values
  VectorClock clock_;
  std::map<int64_t, int64_t> known_;  // workers that were here before: last step pushed
  std::unordered_map<int64_t, Member> members_;
  std::set<int64_t> removed_;  // BSP, kShrink
  bool promoted_ = false;
  absl::Status failure_;
  ShardCounters counters_;
  int64_t reached_ = 0;        // largest step of the workers that left, or of a checkpoint
  int64_t next_snapshot_ = 0;  // step
  std::unique_ptr<ShardSnapshot> snapshot_;
  uint32_t snapshot_next_ = 0;  // slice
};

}  // namespace gradwire::ps
