// The layers of the example models, forward and backward by hand.
//
// Activations are matrices of features x samples, so that a sample is one contiguous column. An
// image lies in its column as a tensor (channels, width, height), channels adjacent. Templates on
// the scalar: float trains, double checks gradients.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace gradwire::training {

template <typename Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;

// One array of weights or biases. Its memory belongs to the model and to the gradient buckets.
template <typename Scalar>
struct Parameter {
  std::string name;            // "dense1.weight"
  std::vector<int64_t> shape;  // row-major, as other frameworks read it
  int64_t fan_in = 0;          // inputs that each output sums over; 0: starts at zero
  int64_t size = 0;            // elements
  int64_t offset = 0;          // first element in the flat arrays of the model, in backward order
  Scalar* value = nullptr;
  Scalar* gradient = nullptr;
};

template <typename Scalar>
class Layer {
 public:
  virtual ~Layer() = default;

  virtual std::vector<Parameter<Scalar>*> parameters() { return {}; }
  // Features of one sample that come out.
  virtual int64_t outputs() const = 0;

  virtual void Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) = 0;
  // Gradients of the parameters, from the same `in` as the last Forward(). Comes before Backward(),
  // so that they can travel while Backward() computes.
  virtual void ComputeGradients(const Matrix<Scalar>& /*in*/, const Matrix<Scalar>& /*d_out*/) {}
  // Gradient of the input.
  virtual void Backward(const Matrix<Scalar>& in, const Matrix<Scalar>& out,
                        const Matrix<Scalar>& d_out, Matrix<Scalar>& d_in) = 0;
};

// out = weight * in + bias; weight has shape (outputs, inputs).
template <typename Scalar>
class Dense final : public Layer<Scalar> {
 public:
  Dense(const std::string& name, int64_t inputs, int64_t outputs);
  std::vector<Parameter<Scalar>*> parameters() override { return {&weight_, &bias_}; }
  int64_t outputs() const override { return outputs_; }
  void Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) override;
  void ComputeGradients(const Matrix<Scalar>& in, const Matrix<Scalar>& d_out) override;
  void Backward(const Matrix<Scalar>& in, const Matrix<Scalar>& out, const Matrix<Scalar>& d_out,
                Matrix<Scalar>& d_in) override;

 private:
  int64_t inputs_;
  int64_t outputs_;
  Parameter<Scalar> weight_;
  Parameter<Scalar> bias_;
};

// out = max(in, 0); NaN stays NaN, so that it reaches the loss.
template <typename Scalar>
class Relu final : public Layer<Scalar> {
 public:
  explicit Relu(int64_t features) : features_(features) {}
  int64_t outputs() const override { return features_; }
  void Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) override;
  void Backward(const Matrix<Scalar>& in, const Matrix<Scalar>& out, const Matrix<Scalar>& d_out,
                Matrix<Scalar>& d_in) override;

 private:
  int64_t features_;
};

struct ImageShape {
  int64_t channels = 1;
  int64_t width = 0;
  int64_t height = 0;
  int64_t size() const { return channels * width * height; }
};

// Cross-correlation with stride 1 and zero padding that keeps width and height ("same"); the kernel
// is odd. weight has shape (filters, kernel, kernel, channels). Patches of the image become the
// columns of a matrix, and the convolution one matrix product.
template <typename Scalar>
class Convolution final : public Layer<Scalar> {
 public:
  Convolution(const std::string& name, ImageShape in, int64_t filters, int64_t kernel);
  std::vector<Parameter<Scalar>*> parameters() override { return {&weight_, &bias_}; }
  int64_t outputs() const override { return out_shape().size(); }
  ImageShape out_shape() const { return {filters_, in_.width, in_.height}; }
  void Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) override;
  void ComputeGradients(const Matrix<Scalar>& in, const Matrix<Scalar>& d_out) override;
  void Backward(const Matrix<Scalar>& in, const Matrix<Scalar>& out, const Matrix<Scalar>& d_out,
                Matrix<Scalar>& d_in) override;

 private:
  ImageShape in_;
  int64_t filters_;
  int64_t kernel_;
  Parameter<Scalar> weight_;
  Parameter<Scalar> bias_;
  Matrix<Scalar> patches_;    // of the last Forward(): (channels * kernel^2) x (pixels * samples)
  Matrix<Scalar> d_patches_;  // scratch of Backward()
};

// Largest of each 2x2 square, stride 2; an odd last row or column is dropped.
template <typename Scalar>
class MaxPool final : public Layer<Scalar> {
 public:
  explicit MaxPool(ImageShape in) : in_(in) {}
  int64_t outputs() const override { return out_shape().size(); }
  ImageShape out_shape() const { return {in_.channels, in_.width / 2, in_.height / 2}; }
  void Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) override;
  // A square's gradient goes to its first largest element.
  void Backward(const Matrix<Scalar>& in, const Matrix<Scalar>& out, const Matrix<Scalar>& d_out,
                Matrix<Scalar>& d_in) override;

 private:
  ImageShape in_;
};

struct LossResult {
  double sum = 0;       // over the samples, in nats
  int64_t correct = 0;  // samples whose largest logit is that of their label
};

// Softmax followed by cross-entropy. `logits` is classes x samples. When `d_logits` is not null it
// receives the gradient of `scale` * sum; scale is 1 / (samples of all ranks), so that summing the
// ranks' gradients yields that of the mean loss, however unevenly the samples are split.
template <typename Scalar>
LossResult SoftmaxCrossEntropy(const Matrix<Scalar>& logits, std::span<const uint8_t> labels,
                               double scale, Matrix<Scalar>* d_logits);

}  // namespace gradwire::training
