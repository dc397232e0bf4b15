// Trees that stand in for /proc, /sys and the rest of a machine that doctor looks at.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "cli/doctor_probes.h"

namespace gradwire::cli {

class DoctorTest : public testing::Test {
 protected:
  DoctorTest() {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    root_ = testing::TempDir() + test->test_suite_name() + "_" + test->name();
    std::filesystem::remove_all(root_);
    options_.root = root_;
    options_.proc = root_ + "/proc";
    options_.sys = root_ + "/sys";
    options_.release = "6.1.0-9-generic";
    options_.folders = {"/usr/bin", "/usr/sbin"};
    options_.run = [this](const std::vector<std::string>& argv, std::chrono::milliseconds) {
      ran_.push_back(argv);
      return CommandResult{};
    };
    options_.list_ports = [this] { return seen_; };
    options_.try_copy = [this] { return copy_error_; };
  }
  ~DoctorTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  void WriteProgram(const std::string& path) {
    Write(path, "");
    chmod((root_ + path).c_str(), 0755);
  }
  void WriteSystem(const std::string& id) { Write("/etc/os-release", "ID=" + id + "\n"); }

  // A module file that modprobe would find.
  void WriteModule(const std::string& name) {
    const std::string folder = "/lib/modules/" + options_.release;
    const std::string file = "kernel/drivers/" + name + ".ko.xz";
    Write(folder + "/" + file, "");
    std::filesystem::create_directories(root_ + folder);
    std::ofstream(root_ + folder + "/modules.dep", std::ios::app)
        << file << ": kernel/net/other.ko.xz\n";
  }
  void WriteLoaded(const std::string& name) { Write("/sys/module/" + name + "/initstate", "live"); }

  void WriteInterface(const std::string& name, bool up, int mtu = 1500) {
    const std::string folder = "/sys/class/net/" + name;
    Write(folder + "/flags", up ? "0x1003\n" : "0x1002\n");
    Write(folder + "/operstate", up ? "up\n" : "down\n");
    Write(folder + "/mtu", std::to_string(mtu) + "\n");
  }

  // A device with one port, with a device file unless `file` is empty.
  void WriteDevice(const std::string& name, const std::string& state, const std::string& interface,
                   const std::string& file = "uverbs0") {
    const std::string port = "/sys/class/infiniband/" + name + "/ports/1";
    Write(port + "/state", state + "\n");
    Write(port + "/link_layer", "Ethernet\n");
    Write(port + "/rate", "2.5 Gb/sec (1X SDR)\n");
    Write(port + "/gid_attrs/ndevs/0", interface + "\n");
    if (file.empty()) return;
    Write("/sys/class/infiniband_verbs/" + file + "/ibdev", name + "\n");
    Write("/dev/infiniband/" + file, "");
  }

  // urxe0 as it should be.
  static rdma::Port UserSpacePort() {
    rdma::Port port{.device = "urxe0", .port = 1, .state = IBV_PORT_ACTIVE, .ethernet = true};
    port.mtu = 1024;
    port.gids = {{.index = 0,
                  .type = rdma::GidType::kRoceV2,
                  .gid = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1}}};
    port.user_space = true;
    return port;
  }

  std::string root_;
  ProbeOptions options_;
  std::vector<std::vector<std::string>> ran_;  // by options_.run
  std::vector<rdma::Port> seen_;               // by libibverbs
  int copy_error_ = 0;                         // of options_.try_copy
};

// The finding about `subject`; a failure when there is none.
inline Finding FindingAbout(const Findings& findings, const std::string& subject) {
  for (const Finding& finding : findings) {
    if (finding.subject == subject) return finding;
  }
  ADD_FAILURE() << "no finding about " << subject;
  return {};
}

}  // namespace gradwire::cli
