// A stack of layers with its parameters in one flat array.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "examples/training/layers.h"
#include "transport/status.h"

namespace gradwire::training {

// Parameters lie in the flat array in the order in which a backward pass finishes their gradients:
// last layer first. Whatever has one number per parameter (gradients, optimizer state) uses the
// same offsets, so a bucket of gradients is one contiguous piece of each.
template <typename Scalar>
class Model {
 public:
  Model(std::string description, std::vector<std::unique_ptr<Layer<Scalar>>> layers);

  // "mlp 64-128-10"; two models with equal descriptions have equal parameters.
  const std::string& description() const { return description_; }
  // In forward order.
  const std::vector<Parameter<Scalar>*>& parameters() const { return parameters_; }
  std::span<Scalar> values() { return values_; }
  std::span<const Scalar> values() const { return values_; }

  // From now on the parameters live in `memory`, which has a place for each and outlives the model;
  // their values move there.
  void PlaceIn(std::span<Scalar> memory);

  // Weights from a normal distribution of variance 2 / fan_in (He, Zhang, Ren and Sun, 2015),
  // biases zero.
  void Initialize(uint64_t seed);

  // `in` is features x samples and must live until Backward() returns; the logits that come back
  // (classes x samples) do so until the next Forward().
  const Matrix<Scalar>& Forward(const Matrix<Scalar>& in);
  // Fills every parameter's gradient; `ready` is told of each as soon as it is final.
  void Backward(const Matrix<Scalar>& d_logits,
                const std::function<void(const Parameter<Scalar>&)>& ready);

 private:
  std::string description_;
  std::vector<std::unique_ptr<Layer<Scalar>>> layers_;
  std::vector<Parameter<Scalar>*> parameters_;
  Eigen::Array<Scalar, Eigen::Dynamic, 1> own_;  // empty when placed elsewhere
  std::span<Scalar> values_;
  const Matrix<Scalar>* in_ = nullptr;   // of the last Forward()
  std::vector<Matrix<Scalar>> outputs_;  // one per layer
  Matrix<Scalar> gradient_;
  Matrix<Scalar> next_gradient_;
};

struct ModelOptions {
  std::string kind = "mlp";             // "mlp" or "cnn"
  std::vector<int64_t> hidden = {128};  // mlp: sizes of the hidden layers, each 1..65536
};

// Multilayer perceptron: dense layers with rectifiers between them.
// Convolutional network: twice (3x3 convolution, rectifier, 2x2 pooling) with 16 and 32 filters,
// then one dense layer; images of at least 4x4.
// InvalidArgument for an unknown kind or an impossible size.
template <typename Scalar>
absl::StatusOr<std::unique_ptr<Model<Scalar>>> MakeModel(const ModelOptions& options, int height,
                                                         int width, int classes);

}  // namespace gradwire::training
