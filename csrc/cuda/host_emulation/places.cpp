#include "places.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>

namespace fusedrnn::cuda::emulation {

namespace {

// The file that holds the code at `pc`, and the address that this file's debug information knows it
// by. The call itself lies one byte before.
struct InFile {
  std::string file;
  std::uintptr_t address;
};
InFile locate(const void* pc) {
  Dl_info info;
  link_map* map = nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(pc) - 1;
  if (dladdr1(pc, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0 || map == nullptr)
    return {"?", address};
  std::string file = map->l_name;
  if (file.empty()) {  // the program itself
    char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path);
    file.assign(path, length > 0 ? static_cast<std::size_t>(length) : 0);
  }
  return {file, address - map->l_addr};
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// A kernel's author wants to see his own line, not that of the load function that it calls.
bool is_of_the_emulation(const std::string& path) {
  for (const char* part : {"/host_emulation/", "/usr/", "cuda/include/", "/targets/"})
    if (path.find(part) != std::string::npos) return true;
  return false;
}

// From addr2line's lines for one address, the innermost first: "/path/tile.h:42 (discriminator 2)".
std::string name_of(const std::vector<std::string>& frames) {
  std::string name, last;
  for (const std::string& frame : frames) {
    const std::string line = base_name(frame.substr(0, frame.find(" (")));
    if (is_of_the_emulation(frame) || line.find(':') == std::string::npos || line[0] == '?' ||
        line == last)
      continue;
    name += (name.empty() ? "" : ", from ") + line;
    last = line;
  }
  return name;
}

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// The frames of each address, in order: with -a, addr2line prints "0x..." before each one's lines.
std::vector<std::vector<std::string>> addr2line(const std::string& file,
                                                const std::vector<std::uintptr_t>& addresses) {
  std::string command = "addr2line -a -i -e " + quoted(file);
  char text[4096];
  for (const std::uintptr_t address : addresses) {
    std::snprintf(text, sizeof text, " %#zx", static_cast<std::size_t>(address));
    command += text;
  }
  std::vector<std::vector<std::string>> frames;
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen((command + " 2>/dev/null").c_str(), "r"),
                                                   pclose);
  while (pipe != nullptr && std::fgets(text, sizeof text, pipe.get()) != nullptr) {
    std::string line = text;
    while (!line.empty() && line.back() == '\n') line.pop_back();
    if (line.rfind("0x", 0) == 0)
      frames.emplace_back();
    else if (!frames.empty())
      frames.back().push_back(line);
  }
  frames.resize(addresses.size());
  return frames;
}

}  // namespace

PlaceId Places::insert(const void* pc) {
  const auto [entry, is_new] = ids_.try_emplace(pc, static_cast<PlaceId>(pcs_.size()));
  if (is_new) pcs_.push_back(pc);
  return entry->second;
}

const std::string& Places::name(PlaceId id) {
  if (id >= names_.size()) resolve();
  return names_[id];
}

void Places::resolve() {
  struct New {
    std::vector<std::uintptr_t> addresses;
    std::vector<PlaceId> ids;
  };
  std::map<std::string, New> files;
  for (PlaceId id = static_cast<PlaceId>(names_.size()); id < pcs_.size(); ++id) {
    const InFile place = locate(pcs_[id]);
    files[place.file].addresses.push_back(place.address);
    files[place.file].ids.push_back(id);
  }
  names_.resize(pcs_.size());
  for (const auto& [file, places] : files) {
    const auto frames = addr2line(file, places.addresses);
    for (std::size_t i = 0; i < places.ids.size(); ++i) {
      std::string& name = names_[places.ids[i]];
      name = name_of(frames[i]);
      char address[32];
      std::snprintf(address, sizeof address, "+%#zx", std::size_t{places.addresses[i]});
      if (name.empty()) name = base_name(file) + address;
    }
  }
}

Places& places() {
  static Places all;
  return all;
}

}  // namespace fusedrnn::cuda::emulation
