// Where the planted bugs are: the lines of their files that say so.
#pragma once

#include <fstream>
#include <set>
#include <string>

namespace fusedrnn::cuda::planted {

// "races_block.cu:17" for each line of the file that ends in "// <- name".
inline std::set<std::string> marked_lines(const std::string& file, const std::string& name) {
  std::ifstream source(std::string(FUSEDRNN_PLANTED) + "/" + file);
  std::set<std::string> lines;
  const std::string mark = "// <- " + name;
  std::string line;
  for (int number = 1; std::getline(source, line); ++number)
    if (line.ends_with(mark)) lines.insert(file + ":" + std::to_string(number));
  return lines;
}

}  // namespace fusedrnn::cuda::planted
