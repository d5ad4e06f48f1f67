#include "formats/npz/npz.h"

#include <fmt/format.h>
#include <zip.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <memory>

#include "formats/npz/npy.h"
#include "formats/pending_files.h"

namespace onnxfold {
namespace {

using Archive = std::unique_ptr<zip_t, decltype(&zip_discard)>;

std::string zip_message(int code) {
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

Result<Archive> open_archive(const std::string& path, int flags) {
  int code = 0;
  Archive archive(zip_open(path.c_str(), flags, &code), &zip_discard);
  if (archive) return archive;
  const bool missing = code == ZIP_ER_NOENT || code == ZIP_ER_OPEN || code == ZIP_ER_READ;
  return fail(missing ? Code::kIo : Code::kCorrupt,
              fmt::format("{}: not a readable .npz: {}", path, zip_message(code)));
}

Result<Buffer> read_entry(zip_t* archive, zip_uint64_t index, const std::string& what) {
  zip_stat_t info;
  zip_stat_init(&info);
  if (zip_stat_index(archive, index, 0, &info) != 0 || (info.valid & ZIP_STAT_SIZE) == 0) {
    return fail(Code::kCorrupt, fmt::format("{}: its size is unknown", what));
  }
  // Deflate shrinks at most about 1032:1: a larger claim is a lie, and nothing is allocated for it.
  if ((info.valid & ZIP_STAT_COMP_SIZE) != 0 && info.size / 1100 > info.comp_size) {
    return fail(Code::kCorrupt,
                fmt::format("{}: claims {} bytes from {} compressed ones", what, info.size, info.comp_size));
  }
  const std::unique_ptr<zip_file_t, decltype(&zip_fclose)> file(zip_fopen_index(archive, index, 0), &zip_fclose);
  if (!file) return fail(Code::kCorrupt, fmt::format("{}: {}", what, zip_strerror(archive)));
  Buffer data(static_cast<std::size_t>(info.size));
  std::size_t done = 0;
  while (done < data.size()) {
    const zip_int64_t got = zip_fread(file.get(), data.data() + done, data.size() - done);
    if (got <= 0) return fail(Code::kCorrupt, fmt::format("{}: truncated or damaged", what));
    done += static_cast<std::size_t>(got);
  }
  return data;
}

}  // namespace

Result<std::map<std::string, Tensor>> load_npz(const std::string& path) {
  OF_ASSIGN(const Archive archive, open_archive(path, ZIP_RDONLY));
  std::map<std::string, Tensor> arrays;
  const zip_int64_t count = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    const char* entry_name = zip_get_name(archive.get(), static_cast<zip_uint64_t>(i), 0);
    if (entry_name == nullptr) return fail(Code::kCorrupt, fmt::format("{}: entry {} has no name", path, i));
    std::string name = entry_name;
    if (name.ends_with(".npy")) name.resize(name.size() - 4);
    const std::string what = fmt::format("{}: array '{}'", path, name);
    OF_ASSIGN(Buffer data, read_entry(archive.get(), static_cast<zip_uint64_t>(i), what));
    auto tensor = parse_npy(data);
    if (!tensor) return fail(tensor.error().in(what));
    arrays.insert_or_assign(std::move(name), std::move(*tensor));
  }
  return arrays;
}

Status save_npz(const std::string& path, const std::map<std::string, Tensor>& arrays) {
  OF_ASSIGN(PendingFile file, PendingFile::create(path));
  std::vector<Buffer> held;  // libzip reads the sources when the archive is closed
  held.reserve(arrays.size());
  OF_ASSIGN(Archive archive, open_archive(file.temporary(), ZIP_CREATE | ZIP_TRUNCATE));
  for (const auto& [name, tensor] : arrays) {
    auto data = format_npy(tensor);
    if (!data) return fail(data.error().in(fmt::format("{}: array '{}'", path, name)));
    held.push_back(std::move(*data));
    zip_source_t* source = zip_source_buffer(archive.get(), held.back().data(), held.back().size(), 0);
    const zip_int64_t index = zip_file_add(archive.get(), (name + ".npy").c_str(), source, ZIP_FL_ENC_UTF_8);
    if (index < 0) {
      zip_source_free(source);
      return fail(Code::kIo, fmt::format("{}: {}", path, zip_strerror(archive.get())));
    }
    zip_set_file_compression(archive.get(), static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0);
    zip_file_set_mtime(archive.get(), static_cast<zip_uint64_t>(index), 315532800,
                       0);  // 1980: the same bytes every time
  }
  if (zip_close(archive.get()) != 0) return fail(Code::kIo, fmt::format("{}: {}", path, zip_strerror(archive.get())));
  (void)archive.release();
  return file.commit();
}

}  // namespace onnxfold
