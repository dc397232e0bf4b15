#include "examples/training/model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "examples/training/random.h"

namespace gradwire::training {
namespace {

template <typename Scalar>
using Layers = std::vector<std::unique_ptr<Layer<Scalar>>>;

template <typename Scalar>
absl::StatusOr<std::unique_ptr<Model<Scalar>>> MakeMlp(const std::vector<int64_t>& hidden,
                                                       int64_t inputs, int64_t classes) {
  constexpr int64_t kMaxHidden = 65536;
  Layers<Scalar> layers;
  std::string description = fmt::format("mlp {}", inputs);
  for (size_t i = 0; i <= hidden.size(); ++i) {
    const bool last = i == hidden.size();
    const int64_t outputs = last ? classes : hidden[i];
    if (outputs < 1 || outputs > kMaxHidden) {
      return InvalidArgument("a hidden layer of {} is outside 1..{}", outputs, kMaxHidden);
    }
    layers.push_back(
        std::make_unique<Dense<Scalar>>(fmt::format("dense{}", i + 1), inputs, outputs));
    if (!last) layers.push_back(std::make_unique<Relu<Scalar>>(outputs));
    description += fmt::format("-{}", outputs);
    inputs = outputs;
  }
  return std::make_unique<Model<Scalar>>(std::move(description), std::move(layers));
}

template <typename Scalar>
absl::StatusOr<std::unique_ptr<Model<Scalar>>> MakeCnn(int64_t height, int64_t width,
                                                       int64_t classes) {
  constexpr int64_t kKernel = 3;
  if (height < 4 || width < 4) {
    return InvalidArgument(
        "model cnn pools twice and needs images of 4x4 or more, these have {}x{}", height, width);
  }
  Layers<Scalar> layers;
  std::string description = fmt::format("cnn {}x{}", height, width);
  ImageShape shape{.channels = 1, .width = width, .height = height};
  int number = 0;
  for (const int64_t filters : {16, 32}) {
    auto convolution = std::make_unique<Convolution<Scalar>>(fmt::format("conv{}", ++number), shape,
                                                             filters, kKernel);
    auto pool = std::make_unique<MaxPool<Scalar>>(convolution->out_shape());
    shape = pool->out_shape();
    const int64_t features = convolution->outputs();
    layers.push_back(std::move(convolution));
    layers.push_back(std::make_unique<Relu<Scalar>>(features));
    layers.push_back(std::move(pool));
    description += fmt::format("-{}c{}", filters, kKernel);
  }
  layers.push_back(std::make_unique<Dense<Scalar>>("dense1", shape.size(), classes));
  description += fmt::format("-{}", classes);
  return std::make_unique<Model<Scalar>>(std::move(description), std::move(layers));
}

}  // namespace

template <typename Scalar>
Model<Scalar>::Model(std::string description, std::vector<std::unique_ptr<Layer<Scalar>>> layers)
    : description_(std::move(description)), layers_(std::move(layers)), outputs_(layers_.size()) {
  int64_t size = 0;
  for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer) {
    for (Parameter<Scalar>* parameter : (*layer)->parameters()) {
      parameter->offset = size;
      size += parameter->size;
    }
  }
  own_.setZero(size);
  values_ = {own_.data(), static_cast<size_t>(size)};
  for (const auto& layer : layers_) {
    for (Parameter<Scalar>* parameter : layer->parameters()) {
      parameter->value = values_.data() + parameter->offset;
      parameters_.push_back(parameter);
    }
  }
}

template <typename Scalar>
void Model<Scalar>::PlaceIn(std::span<Scalar> memory) {
  memory = memory.first(values_.size());
  std::ranges::copy(values_, memory.begin());
  values_ = memory;
  own_.resize(0);
  for (Parameter<Scalar>* parameter : parameters_) {
    parameter->value = values_.data() + parameter->offset;
  }
}

template <typename Scalar>
void Model<Scalar>::Initialize(uint64_t seed) {
  uint64_t stream = 0;
  for (Parameter<Scalar>* parameter : parameters_) {
    Random random(seed, stream++);
    const double deviation =
        parameter->fan_in == 0 ? 0 : std::sqrt(2.0 / static_cast<double>(parameter->fan_in));
    for (int64_t i = 0; i < parameter->size; ++i) {
      parameter->value[i] = static_cast<Scalar>(deviation * random.Normal());
    }
  }
}

template <typename Scalar>
const Matrix<Scalar>& Model<Scalar>::Forward(const Matrix<Scalar>& in) {
  in_ = &in;
  const Matrix<Scalar>* next = &in;
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i]->Forward(*next, outputs_[i]);
    next = &outputs_[i];
  }
  return *next;
}

template <typename Scalar>
void Model<Scalar>::Backward(const Matrix<Scalar>& d_logits,
                             const std::function<void(const Parameter<Scalar>&)>& ready) {
  const Matrix<Scalar>* d_out = &d_logits;
  for (size_t i = layers_.size(); i-- > 0;) {
    const Matrix<Scalar>& in = i == 0 ? *in_ : outputs_[i - 1];
    layers_[i]->ComputeGradients(in, *d_out);
    for (const Parameter<Scalar>* parameter : layers_[i]->parameters()) ready(*parameter);
    if (i == 0) return;  // nobody wants the gradient of the data
    layers_[i]->Backward(in, outputs_[i], *d_out, next_gradient_);
    std::swap(gradient_, next_gradient_);
    d_out = &gradient_;
  }
}

template <typename Scalar>
absl::StatusOr<std::unique_ptr<Model<Scalar>>> MakeModel(const ModelOptions& options, int height,
                                                         int width, int classes) {
  if (options.kind == "mlp") {
    return MakeMlp<Scalar>(options.hidden, static_cast<int64_t>(height) * width, classes);
  }
  if (options.kind == "cnn") return MakeCnn<Scalar>(height, width, classes);
  return InvalidArgument("--model {}: is none of mlp|cnn", options.kind);
}

template class Model<float>;
template class Model<double>;
template absl::StatusOr<std::unique_ptr<Model<float>>> MakeModel(const ModelOptions&, int, int,
                                                                 int);
template absl::StatusOr<std::unique_ptr<Model<double>>> MakeModel(const ModelOptions&, int, int,
                                                                  int);

}  // namespace gradwire::training
