// gradwire rendezvous: a standing meeting point for jobs whose rank 0 shall not host one.
#include <fmt/core.h>

#include <csignal>

#include "cli/command.h"
#include "cli/standard_output.h"
#include "cli/usage.h"
#include "transport/bootstrap/rendezvous_server.h"

namespace gradwire::cli {
namespace {

int Serve(const Settings& settings, const std::string& address, int port) {
  SetUpLogging(settings.log_level);
  // Blocked before the server starts its threads, so that the signals are heard here alone.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGINT);
  sigaddset(&ends, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  RendezvousServer::Options options = RendezvousServer::OptionsFrom(settings);
  options.address = address;
  options.port = port;
  const auto server = RendezvousServer::Start(options);
  if (!server.ok()) return ReportError(server.status());
  const std::string shown = address.empty() ? "*" : address;
  const bool ipv6 = shown.find(':') != std::string::npos;
  PrintText("gradwire rendezvous: listening on {}:{}\n", ipv6 ? "[" + shown + "]" : shown,
            (*server)->port());
  int signal = 0;
  sigwait(&ends, &signal);
  PrintText("gradwire rendezvous: got signal {}, ending\n", signal);
  // Ranks that are still there are told at once rather than waited for.
  (*server)->Stop(std::chrono::milliseconds(0));
  return kDone;
}

}  // namespace

void AddRendezvous(CLI::App& root, Action& action) {
  struct State {
    Settings settings;
    std::string address;
    int port = 29500;
  };
  auto state = std::make_shared<State>();
  CLI::App* rendezvous = root.add_subcommand("rendezvous", "serve as a standing meeting point");
  rendezvous
      ->add_option("--port", state->port, "port to listen on, 0: any free one [default: 29500]")
      ->check(Between(0, 65535))
      ->option_text("PORT");
  rendezvous->add_option("--address", state->address, "numeric address to listen on; default: all")
      ->option_text("ADDRESS");
  AddSettings(*rendezvous, state->settings);
  rendezvous->footer(
      "Ranks come here with --rendezvous HOST:PORT; their rank and size still come from\n"
      "their launcher. Ends on SIGINT and SIGTERM. Of the settings, --token,\n"
      "--tls-cert, --tls-key, --tls-ca and --log-level matter here.\n");
  rendezvous->callback([state, &action] {
    action = [state] { return Serve(state->settings, state->address, state->port); };
  });
}

}  // namespace gradwire::cli
