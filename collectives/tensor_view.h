// Contiguous tensors as collectives see them: a pointer, a count and an element type, made from
// Eigen's matrices, maps, refs and tensors or from spans, without copying.
#pragma once

#include <Eigen/Core>
#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>

#include "collectives/types.h"
#include "transport/memory.h"

namespace gradwire {

namespace internal {
template <typename T>
using ElementOf = std::remove_cvref_t<decltype(*std::declval<T&>().data())>;

// Eigen types that carry strides: Matrix, Array, Map, Ref, Block.
template <typename T>
concept Strided = requires(const T& tensor) {
  { tensor.innerStride() } -> std::convertible_to<std::ptrdiff_t>;
  { tensor.outerStride() } -> std::convertible_to<std::ptrdiff_t>;
  { tensor.innerSize() } -> std::convertible_to<std::ptrdiff_t>;
  { tensor.outerSize() } -> std::convertible_to<std::ptrdiff_t>;
};

template <typename T>
bool IsContiguous(const T& tensor) {
  if constexpr (Strided<T>) {
    return (tensor.innerSize() <= 1 || tensor.innerStride() == 1) &&
           (tensor.outerSize() <= 1 || tensor.outerStride() == tensor.innerSize());
  } else {
    return true;
  }
}
}  // namespace internal

// Anything with elements behind data() and a size(): Eigen::Matrix, Map, Ref, Tensor, TensorMap,
// std::span, std::vector, std::array.
template <typename T>
concept TensorLike = requires(T& tensor) {
  { tensor.size() } -> std::convertible_to<std::ptrdiff_t>;
  requires std::is_pointer_v<decltype(tensor.data())>;
  requires Element<internal::ElementOf<T>>;
};

// A tensor that is only read. Strided Eigen expressions whose elements are not adjacent make a view
// that contiguous() rejects; collectives return InvalidArgument for it.
class ConstTensorView {
 public:
  ConstTensorView() = default;
  ConstTensorView(const void* data, size_t count, DataType type)
      : data_(const_cast<void*>(data)), count_(count), type_(type) {}

  template <TensorLike T>
  ConstTensorView(const T& tensor)  // NOLINT(google-explicit-constructor): a view by intent
      : ConstTensorView(tensor.data(), static_cast<size_t>(tensor.size()),
                        DataTypeOf<internal::ElementOf<const T>>::value) {
    contiguous_ = internal::IsContiguous(tensor);
  }

  const void* data() const { return data_; }
  size_t count() const { return count_; }  // elements
  DataType type() const { return type_; }
  bool contiguous() const { return contiguous_; }
  size_t size_bytes() const { return count_ * SizeOf(type_); }
  ConstBytes bytes() const { return {static_cast<const std::byte*>(data_), size_bytes()}; }

 protected:
  void* data_ = nullptr;  // const for readers; TensorView alone hands it out for writing
  size_t count_ = 0;
  DataType type_ = DataType::kFloat32;
  bool contiguous_ = true;
};

// A tensor that is written, or read and written.
class TensorView : public ConstTensorView {
 public:
  TensorView() = default;
  TensorView(void* data, size_t count, DataType type) : ConstTensorView(data, count, type) {}

  // `tensor` may be a temporary view such as a Map, a Ref or a span.
  template <typename T>
  requires TensorLike<std::remove_reference_t<T>> &&
      (!std::derived_from<std::remove_cvref_t<T>, ConstTensorView>)&&(
          !std::is_const_v<std::remove_pointer_t<decltype(std::declval<T&>().data())>>)
          TensorView(T&& tensor)  // NOLINT(google-explicit-constructor): a view by intent
      : TensorView(tensor.data(), static_cast<size_t>(tensor.size()),
                   DataTypeOf<internal::ElementOf<T>>::value) {
    contiguous_ = internal::IsContiguous(tensor);
  }

  void* data() const { return data_; }
  Bytes bytes() const { return {static_cast<std::byte*>(data_), size_bytes()}; }
};

}  // namespace gradwire
