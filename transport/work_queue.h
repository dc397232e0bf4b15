// Objects that have something to do, each at most once, oldest first. What an object needs to be
// queued is part of it: the data path allocates nothing, and whoever is destroyed leaves the queue.
#pragma once

namespace gradwire {

template <typename T>
class WorkQueue {
 public:
  // A member of T, one for every queue that may hold it.
  class Entry {
   public:
    explicit Entry(T* owner) : owner_(owner) {}
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    ~Entry() { Leave(); }

   private:
    friend class WorkQueue;
    bool queued() const { return next_ != this; }
    void Leave() {
      previous_->next_ = next_;
      next_->previous_ = previous_;
      previous_ = next_ = this;
    }

    T* const owner_;
    Entry* previous_ = this;
    Entry* next_ = this;
  };

  // Adds at the end, unless it is queued already.
  void Push(Entry& entry) {
    if (entry.queued()) return;
    entry.previous_ = ends_.previous_;
    entry.next_ = &ends_;
    entry.previous_->next_ = &entry;
    ends_.previous_ = &entry;
  }
  // Removes and returns the oldest; null when there is none.
  T* Pop() {
    Entry* const first = ends_.next_;
    if (first == &ends_) return nullptr;
    first->Leave();
    return first->owner_;
  }
  // The newest, to know where a round ends; null when there is none.
  const T* newest() const { return ends_.previous_->owner_; }

 private:
  Entry ends_{nullptr};  // before the first and behind the last
};

}  // namespace gradwire
