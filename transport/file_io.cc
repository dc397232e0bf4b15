#include "transport/file_io.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <limits>
#include <memory>

namespace gradwire {
namespace {

// write(2), where a file beyond the process's limit (RLIMIT_FSIZE) is an error as a full disk is.
// The signal that comes with it, which would end the process, goes to the thread that writes.
ssize_t WriteWithinLimit(int fd, ConstBytes bytes) {
  sigset_t beyond, before;
  sigemptyset(&beyond);
  sigaddset(&beyond, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &beyond, &before);
  const ssize_t written = write(fd, bytes.data(), bytes.size());
  const int error = errno;
  if (written < 0 && error == EFBIG) {
    const timespec now{};
    sigtimedwait(&beyond, nullptr, &now);
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return written;
}

}  // namespace

absl::Status WriteWhole(int fd, ConstBytes bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = WriteWithinLimit(fd, bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoError(errno, "{}: cannot write", path.string());
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint8_t>> ReadFile(const std::filesystem::path& path, uint64_t limit) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return MakeError(absl::StatusCode::kNotFound, "{}: no such file", path.string());
  }
  if (!std::filesystem::is_regular_file(status)) {
    return InvalidArgument("{}: not a regular file", path.string());
  }
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return ErrnoError(error.value(), "{}: cannot tell the size", path.string());
  if (size > limit) {
    return ProtocolError("{}: {} bytes exceed the {} that are read at most", path.string(), size,
                         limit);
  }
  std::vector<uint8_t> bytes(size);
  std::ifstream file(path, std::ios::binary);
  if (!file) return ErrnoError(errno, "{}: cannot open", path.string());
  if (!file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(size))) {
    return ProtocolError("{}: only {} of {} bytes could be read", path.string(), file.gcount(),
                         size);
  }
  return bytes;
}

absl::StatusOr<InputFile> InputFile::Open(const std::filesystem::path& path) {
  // Not blocking, for a pipe without a writer.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoError(errno, "{}: cannot open", path.string());
  InputFile file(path.string(), fd, 0);
  struct stat status {};
  if (fstat(fd, &status) != 0) return ErrnoError(errno, "{}: cannot tell the size", path.string());
  if (!S_ISREG(status.st_mode)) return InvalidArgument("{}: not a regular file", path.string());
  file.size_ = static_cast<uint64_t>(status.st_size);
  return file;
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  return *this;
}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status InputFile::Read(uint64_t offset, Bytes bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoError(errno, "{}: cannot read at offset {}", path_, offset);
    if (got == 0) return ProtocolError("{}: ends early, at offset {}", path_, offset);
    offset += static_cast<uint64_t>(got);
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

bool IsGzip(std::span<const uint8_t> bytes) {
  return bytes.size() >= 2 && bytes[0] == 0x1f && bytes[1] == 0x8b;
}

absl::StatusOr<std::vector<uint8_t>> Gunzip(std::span<const uint8_t> bytes, uint64_t limit,
                                            std::string_view name) {
  if (bytes.size() > std::numeric_limits<uInt>::max()) {
    return ProtocolError("{}: {} packed bytes are more than zlib takes at once", name,
                         bytes.size());
  }
  z_stream stream{};
  constexpr int kGzipOnly = 16;
  if (inflateInit2(&stream, MAX_WBITS + kGzipOnly) != Z_OK) {
    return InternalError("{}: zlib could not start", name);
  }
  const std::unique_ptr<z_stream, int (*)(z_stream*)> guard(&stream, inflateEnd);
  stream.next_in = const_cast<Bytef*>(bytes.data());
  stream.avail_in = static_cast<uInt>(bytes.size());

  std::vector<uint8_t> out;
  std::array<uint8_t, 64 << 10> chunk;
  while (true) {
    stream.next_out = chunk.data();
    stream.avail_out = static_cast<uInt>(chunk.size());
    const int result = inflate(&stream, Z_NO_FLUSH);
    const size_t produced = chunk.size() - stream.avail_out;
    if (out.size() + produced > limit) {
      return ProtocolError("{}: unpacks to more than {} bytes", name, limit);
    }
    out.insert(out.end(), chunk.begin(), chunk.begin() + static_cast<ptrdiff_t>(produced));
    const size_t offset = bytes.size() - stream.avail_in;
    if (result == Z_STREAM_END) {
      if (stream.avail_in == 0) return out;
      inflateReset(&stream);  // members may follow each other
    } else if (result == Z_BUF_ERROR || (result == Z_OK && stream.avail_in == 0 && produced == 0)) {
      return ProtocolError("{}: gzip data end early, after {} bytes", name, offset);
    } else if (result != Z_OK) {
      return ProtocolError("{}: damaged gzip data near offset {}: {}", name, offset,
                           stream.msg != nullptr ? stream.msg : zError(result));
    }
  }
}

absl::StatusOr<AtomicFile> AtomicFile::Create(const std::filesystem::path& path) {
  if (path.filename().empty()) return InvalidArgument("'{}' names no file", path.string());
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return InvalidArgument("{}: is a folder, a file is wanted", path.string());
  }
  std::filesystem::path temporary = path;
  temporary += fmt::format(".{}.tmp", getpid());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    const int code = errno;
    // Not NotFound: the folder is where the work should go, and the work fails.
    return absl::Status(absl::StatusCode::kFailedPrecondition,
                        Message(ErrnoError(code, "{}: cannot write here", path.string())));
  }
  return AtomicFile(path, std::move(temporary), fd);
}

AtomicFile::AtomicFile(std::filesystem::path path, std::filesystem::path temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      fd_(std::exchange(other.fd_, -1)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(fd_, other.fd_);
  return *this;
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

absl::Status AtomicFile::Append(ConstBytes bytes) { return WriteWhole(fd_, bytes, path_); }

absl::Status AtomicFile::Append(std::string_view text) {
  return Append(std::as_bytes(std::span(text.data(), text.size())));
}

absl::Status AtomicFile::Commit() {
  if (fsync(fd_) != 0) return ErrnoError(errno, "{}: cannot sync", path_.string());
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    return ErrnoError(errno, "{}: cannot rename into place", path_.string());
  }
  close(std::exchange(fd_, -1));
  // The rename itself lives in the folder.
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
  const int folder_fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd < 0) return ErrnoError(errno, "{}: cannot open to sync", folder.string());
  const int result = fsync(folder_fd);
  const int error = errno;
  close(folder_fd);
  // Some file systems cannot sync a folder and say EINVAL.
  if (result != 0 && error != EINVAL) return ErrnoError(error, "{}: cannot sync", folder.string());
  return absl::OkStatus();
}

}  // namespace gradwire
