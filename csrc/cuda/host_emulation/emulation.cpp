#include "emulation.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "kernels.h"
#include "memory_profile.h"
#include "race_checker.h"
#include "state.h"
#include "streams.h"

namespace fusedrnn::cuda::emulation {
namespace {

// ---- Settings from the environment --------------------------------------------------------------

[[noreturn]] void unknown(const std::string& name, const std::string& value) {
  throw std::invalid_argument(name + ": \"" + value + "\" is not one of its values");
}

std::string variable(const char* suffix) {
  return std::string("FUSEDRNN_CUDA_EMULATION_") + suffix;
}

void read(const char* suffix, std::string& value) {
  if (const char* text = std::getenv(variable(suffix).c_str())) value = text;
}

template <class Number>
void read(const char* suffix, Number& value) {
  std::string text;
  read(suffix, text);
  if (text.empty()) return;
  if (text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos)
    unknown(variable(suffix), text);
  value = static_cast<Number>(std::stoul(text));
}

void read(const char* suffix, Copies& value) {
  std::string text;
  read(suffix, text);
  if (text.empty()) return;
  if (text == "earliest")
    value = Copies::earliest;
  else if (text == "latest")
    value = Copies::latest;
  else if (text == "random")
    value = Copies::random;
  else
    unknown(variable(suffix), text);
}

void read(const char* suffix, Streams& value) {
  std::string text;
  read(suffix, text);
  if (text.empty()) return;
  if (text == "eager")
    value = Streams::eager;
  else if (text == "lazy")
    value = Streams::lazy;
  else
    unknown(variable(suffix), text);
}

Options options_of_environment() {
  Options options;
  read("SEED", options.seed);
  read("RACES", options.check_races);
  read("PROFILE", options.profile_memory);
  read("COPIES", options.async_copies);
  read("STREAMS", options.streams);
  read("DEVICE", options.device);
  read("MULTIPROCESSORS", options.multiprocessors);
  return options;
}

DeviceModel device_of(const Options& options) {
  const bool missing = options.device == "none" || options.device == "no_driver";
  DeviceModel device = device_model(missing ? Options().device : options.device);
  if (options.multiprocessors > 0) device.multiprocessors = options.multiprocessors;
  return device;
}

// Attaches or detaches, and calls nothing twice.
void listen(Observer& observer, bool listens) {
  std::vector<Observer*>& all = state().observers;
  const bool listened = std::find(all.begin(), all.end(), &observer) != all.end();
  if (listens && !listened) attach(observer);
  if (!listens && listened) detach(observer);
}

}  // namespace

// ---- State --------------------------------------------------------------------------------------

State::State() { apply(options_of_environment()); }

void State::apply(const Options& wanted) {
  device = device_of(wanted);
  missing = wanted.device == "none"        ? cudaErrorNoDevice
            : wanted.device == "no_driver" ? cudaErrorInsufficientDriver
                                           : cudaSuccess;
  options = wanted;
}

State& state() {
  // Never destroyed: threads and other static objects may call at exit.
  static State& all = *new State();
  static const bool listening = [] {
    if (all.options.check_races) all.observers.push_back(&race_checker());
    if (all.options.profile_memory) all.observers.push_back(&memory_profile());
    return true;
  }();
  static_cast<void>(listening);
  return all;
}

void configure(const Options& options) {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  finish_all_work();
  all.apply(options);
  listen(race_checker(), options.check_races);
  listen(memory_profile(), options.profile_memory);
}

const Options& options() { return state().options; }

Counts counts() {
  const std::lock_guard lock(state().mutex);
  Counts counts = state().counts;
  for (const auto& [begin, bytes] : state().memory.allocations()) {
    ++counts.allocations;
    counts.allocated_bytes += bytes;
  }
  return counts;
}

const std::string& report() { return state().report; }

void reset() {
  const std::lock_guard lock(state().mutex);
  drop_all_work();
  forget_attributes();
  state().counts = {};
  state().report.clear();
  state().sticky_error = cudaSuccess;
}

// ---- For observers ------------------------------------------------------------------------------

void attach(Observer& observer) {
  State& all = state();
  const std::lock_guard lock(all.mutex);
  all.observers.push_back(&observer);
  for (const auto& [begin, bytes] : all.memory.allocations()) {
    observer.allocated(begin, bytes, Space::global, kNobody);
    observer.host_wrote(begin, bytes);
  }
}

void detach(Observer& observer) {
  const std::lock_guard lock(state().mutex);
  std::erase(state().observers, &observer);
}

void add_to_report(std::string_view text) {
  std::string& report = state().report;
  const std::size_t begin = report.size();
  report.append(text);
  report += '\n';
  std::fputs(report.c_str() + begin, stderr);
}

void report_fault(std::string_view text) {
  add_to_report(text);
  if (!state().fault) ++state().counts.faults;
  state().fault = true;
}

Counts& tally() { return state().counts; }

}  // namespace fusedrnn::cuda::emulation
