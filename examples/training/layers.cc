#include "examples/training/layers.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <unsupported/Eigen/CXX11/Tensor>

namespace gradwire::training {
namespace {

template <typename Scalar>
using MatrixMap = Eigen::Map<Matrix<Scalar>>;
template <typename Scalar>
using ConstMatrixMap = Eigen::Map<const Matrix<Scalar>>;
template <typename Scalar>
using VectorMap = Eigen::Map<Eigen::Matrix<Scalar, Eigen::Dynamic, 1>>;

template <typename Scalar>
Parameter<Scalar> MakeParameter(std::string name, std::vector<int64_t> shape, int64_t fan_in) {
  Parameter<Scalar> parameter;
  parameter.name = std::move(name);
  parameter.shape = std::move(shape);
  parameter.fan_in = fan_in;
  parameter.size = 1;
  for (const int64_t side : parameter.shape) parameter.size *= side;
  return parameter;
}

// Copies the kernel x kernel surroundings of every pixel into one column of `patches`, zero outside
// the image: (channels, width, height, samples) -> (channels, kernel, kernel, pixels, samples), the
// layout of Eigen::Tensor's extract_image_patches, at a multiple of its speed.
template <typename Scalar>
void ExtractPatches(const Scalar* images, const ImageShape& shape, int64_t samples, int64_t kernel,
                    Matrix<Scalar>& patches) {
  const int64_t pad = kernel / 2;
  const int64_t row = shape.channels * shape.width;
  patches.resize(shape.channels * kernel * kernel, shape.width * shape.height * samples);
  Scalar* to = patches.data();
  for (int64_t n = 0; n < samples; ++n, images += shape.size()) {
    for (int64_t y = 0; y < shape.height; ++y) {
      for (int64_t x = 0; x < shape.width; ++x) {
        // Of each row of the patch, the pixels [left, right) lie inside the image.
        const int64_t left = std::max<int64_t>(x - pad, 0);
        const int64_t right = std::min(x - pad + kernel, shape.width);
        for (int64_t patch_y = y - pad; patch_y < y - pad + kernel; ++patch_y) {
          Scalar* const row_end = to + shape.channels * kernel;
          if (patch_y >= 0 && patch_y < shape.height) {
            to = std::fill_n(to, (left - (x - pad)) * shape.channels, Scalar(0));
            to = std::copy_n(images + patch_y * row + left * shape.channels,
                             (right - left) * shape.channels, to);
          }
          to = std::fill_n(to, row_end - to, Scalar(0));
        }
      }
    }
  }
}

}  // namespace

// The weight of shape (outputs, inputs), row by row, is column by column the matrix inputs x
// outputs.
template <typename Scalar>
Dense<Scalar>::Dense(const std::string& name, int64_t inputs, int64_t outputs)
    : inputs_(inputs),
      outputs_(outputs),
      weight_(MakeParameter<Scalar>(name + ".weight", {outputs, inputs}, inputs)),
      bias_(MakeParameter<Scalar>(name + ".bias", {outputs}, 0)) {}

template <typename Scalar>
void Dense<Scalar>::Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) {
  out.noalias() = MatrixMap<Scalar>(weight_.value, inputs_, outputs_).transpose() * in;
  out.colwise() += VectorMap<Scalar>(bias_.value, outputs_);
}

template <typename Scalar>
void Dense<Scalar>::ComputeGradients(const Matrix<Scalar>& in, const Matrix<Scalar>& d_out) {
  MatrixMap<Scalar>(weight_.gradient, inputs_, outputs_).noalias() = in * d_out.transpose();
  // By way of memory of its own: the order of Eigen's additions depends on where the result begins.
  VectorMap<Scalar>(bias_.gradient, outputs_) = d_out.rowwise().sum().eval();
}

template <typename Scalar>
void Dense<Scalar>::Backward(const Matrix<Scalar>&, const Matrix<Scalar>&,
                             const Matrix<Scalar>& d_out, Matrix<Scalar>& d_in) {
  d_in.noalias() = MatrixMap<Scalar>(weight_.value, inputs_, outputs_) * d_out;
}

template <typename Scalar>
void Relu<Scalar>::Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) {
  out = in.unaryExpr([](Scalar x) { return x < Scalar(0) ? Scalar(0) : x; });
}

template <typename Scalar>
void Relu<Scalar>::Backward(const Matrix<Scalar>&, const Matrix<Scalar>& out,
                            const Matrix<Scalar>& d_out, Matrix<Scalar>& d_in) {
  d_in = out.binaryExpr(d_out, [](Scalar y, Scalar d) { return y > Scalar(0) ? d : Scalar(0); });
}

// The weight of shape (filters, kernel, kernel, channels), row by row, is column by column the
// matrix (channels * kernel^2) x filters: one column of patches for each filter.
template <typename Scalar>
Convolution<Scalar>::Convolution(const std::string& name, ImageShape in, int64_t filters,
                                 int64_t kernel)
    : in_(in),
      filters_(filters),
      kernel_(kernel),
      weight_(MakeParameter<Scalar>(name + ".weight", {filters, kernel, kernel, in.channels},
                                    in.channels * kernel * kernel)),
      bias_(MakeParameter<Scalar>(name + ".bias", {filters}, 0)) {}

template <typename Scalar>
void Convolution<Scalar>::Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) {
  const int64_t samples = in.cols();
  ExtractPatches(in.data(), in_, samples, kernel_, patches_);
  out.resize(outputs(), samples);
  MatrixMap<Scalar> image(out.data(), filters_, patches_.cols());
  image.noalias() =
      MatrixMap<Scalar>(weight_.value, patches_.rows(), filters_).transpose() * patches_;
  image.colwise() += VectorMap<Scalar>(bias_.value, filters_);
}

template <typename Scalar>
void Convolution<Scalar>::ComputeGradients(const Matrix<Scalar>&, const Matrix<Scalar>& d_out) {
  const ConstMatrixMap<Scalar> d_image(d_out.data(), filters_, patches_.cols());
  MatrixMap<Scalar>(weight_.gradient, patches_.rows(), filters_).noalias() =
      patches_ * d_image.transpose();
  VectorMap<Scalar>(bias_.gradient, filters_) = d_image.rowwise().sum().eval();
}

// The gradient of a same-padded correlation is the correlation of d_out with the kernel turned by
// half a turn and its channels and filters swapped.
template <typename Scalar>
void Convolution<Scalar>::Backward(const Matrix<Scalar>&, const Matrix<Scalar>&,
                                   const Matrix<Scalar>& d_out, Matrix<Scalar>& d_in) {
  const int64_t samples = d_out.cols();
  ExtractPatches(d_out.data(), out_shape(), samples, kernel_, d_patches_);
  const Eigen::TensorMap<Eigen::Tensor<Scalar, 4>> weight(weight_.value, in_.channels, kernel_,
                                                          kernel_, filters_);
  const Eigen::Tensor<Scalar, 4> turned =
      weight.reverse(std::array<bool, 4>{false, true, true, false})
          .shuffle(std::array<Eigen::Index, 4>{3, 1, 2, 0});
  d_in.resize(in_.size(), samples);
  MatrixMap<Scalar>(d_in.data(), in_.channels, d_patches_.cols()).noalias() =
      ConstMatrixMap<Scalar>(turned.data(), d_patches_.rows(), in_.channels).transpose() *
      d_patches_;
}

template <typename Scalar>
void MaxPool<Scalar>::Forward(const Matrix<Scalar>& in, Matrix<Scalar>& out) {
  const ImageShape pooled = out_shape();
  out.resize(pooled.size(), in.cols());
  const int64_t channels = in_.channels;
  const int64_t row = channels * in_.width;
  for (Eigen::Index n = 0; n < in.cols(); ++n) {
    Scalar* to = out.col(n).data();
    for (int64_t y = 0; y < pooled.height; ++y) {
      for (int64_t x = 0; x < pooled.width; ++x, to += channels) {
        const Scalar* from = in.col(n).data() + 2 * y * row + 2 * x * channels;
        for (int64_t c = 0; c < channels; ++c) {
          to[c] = std::max(std::max(from[c], from[channels + c]),
                           std::max(from[row + c], from[row + channels + c]));
        }
      }
    }
  }
}

template <typename Scalar>
void MaxPool<Scalar>::Backward(const Matrix<Scalar>& in, const Matrix<Scalar>& out,
                               const Matrix<Scalar>& d_out, Matrix<Scalar>& d_in) {
  const ImageShape pooled = out_shape();
  d_in.setZero(in_.size(), in.cols());
  const int64_t channels = in_.channels;
  const int64_t row = channels * in_.width;
  const std::array<int64_t, 4> corners = {0, channels, row, row + channels};
  for (Eigen::Index n = 0; n < in.cols(); ++n) {
    const Scalar* largest = out.col(n).data();
    const Scalar* gradient = d_out.col(n).data();
    for (int64_t y = 0; y < pooled.height; ++y) {
      for (int64_t x = 0; x < pooled.width; ++x, largest += channels, gradient += channels) {
        const int64_t square = 2 * y * row + 2 * x * channels;
        const Scalar* from = in.col(n).data() + square;
        Scalar* to = d_in.col(n).data() + square;
        for (int64_t c = 0; c < channels; ++c) {
          for (const int64_t corner : corners) {
            if (from[corner + c] == largest[c]) {
              to[corner + c] = gradient[c];
              break;
            }
          }
        }
      }
    }
  }
}

template <typename Scalar>
LossResult SoftmaxCrossEntropy(const Matrix<Scalar>& logits, std::span<const uint8_t> labels,
                               double scale, Matrix<Scalar>* d_logits) {
  LossResult result;
  if (d_logits != nullptr) d_logits->resize(logits.rows(), logits.cols());
  Eigen::Array<Scalar, Eigen::Dynamic, 1> exponentials(logits.rows());
  for (Eigen::Index n = 0; n < logits.cols(); ++n) {
    const auto column = logits.col(n).array();
    const Eigen::Index label = labels[static_cast<size_t>(n)];
    Eigen::Index best = 0;
    // The largest is taken off first, so that no exponential overflows.
    const Scalar largest = column.maxCoeff(&best);
    // Not Eigen's exp(), which gives a number for NaN.
    exponentials = (column - largest).unaryExpr([](Scalar x) { return std::exp(x); });
    const Scalar sum = exponentials.sum();
    result.sum += static_cast<double>(std::log(sum) + (largest - column(label)));
    result.correct += best == label ? 1 : 0;
    if (d_logits != nullptr) {
      d_logits->col(n) = exponentials * (static_cast<Scalar>(scale) / sum);
      (*d_logits)(label, n) -= static_cast<Scalar>(scale);
    }
  }
  return result;
}

template class Dense<float>;
template class Dense<double>;
template class Relu<float>;
template class Relu<double>;
template class Convolution<float>;
template class Convolution<double>;
template class MaxPool<float>;
template class MaxPool<double>;
template LossResult SoftmaxCrossEntropy(const Matrix<float>&, std::span<const uint8_t>, double,
                                        Matrix<float>*);
template LossResult SoftmaxCrossEntropy(const Matrix<double>&, std::span<const uint8_t>, double,
                                        Matrix<double>*);

}  // namespace gradwire::training
