#include "openmp.h"

#if __has_include(<dlfcn.h>)
#include <dlfcn.h>
#endif

namespace fusedrnn {

#if __has_include(<dlfcn.h>)

namespace {

template <class Function>
bool find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

OpenMP find_openmp(const char* library) {
  // A handle's symbols are those of the library and of all that it is linked with. It is never
  // closed: the runtime must stay.
  void* const handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
  OpenMP found{};
  const bool complete = handle != nullptr && find(handle, "GOMP_parallel", found.parallel) &&
                        find(handle, "omp_get_thread_num", found.thread_num) &&
                        find(handle, "omp_get_num_threads", found.num_threads) &&
                        (find(handle, "_ZN2at15get_num_threadsEv", found.max_threads) ||
                         find(handle, "omp_get_max_threads", found.max_threads));
  return complete ? found : OpenMP{};
}

#else

OpenMP find_openmp(const char*) { return {}; }

#endif

}  // namespace fusedrnn
