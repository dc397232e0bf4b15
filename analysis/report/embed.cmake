# Puts style, scripts, d3 and its licence into report.html, and the whole into a C++ source:
#   cmake -DPAGE=report.html -DSTYLE=report.css -DSCRIPTS=a.js,b.js -DD3=... -DD3_LICENCE=...
#         -DOUT=page.cc -P embed.cmake
foreach(name PAGE STYLE D3 D3_LICENCE OUT)
  if(NOT ${name})
    message(FATAL_ERROR "embed.cmake: ${name} is not set")
  endif()
endforeach()
file(READ "${PAGE}" page)
file(READ "${STYLE}" style)
file(READ "${D3}" d3)
file(READ "${D3_LICENCE}" licence)
set(script)
string(REPLACE "," ";" SCRIPTS "${SCRIPTS}")
foreach(path IN LISTS SCRIPTS)
  file(READ "${path}" part)
  string(APPEND script "${part}\n")
endforeach()

foreach(text script d3 style)
  if("${${text}}" MATCHES "</[sS][cCtT][rRyY][iIlL]" OR "${${text}}" MATCHES "<!--")
    message(FATAL_ERROR "embed.cmake: the ${text} would end its element: it has an end tag or <!--")
  endif()
endforeach()
string(REPLACE "&" "&amp;" licence "${licence}")
string(REPLACE "<" "&lt;" licence "${licence}")
string(REPLACE ">" "&gt;" licence "${licence}")

foreach(text style d3 licence script)
  string(REPLACE "{{${text}}}" "${${text}}" page "${page}")
endforeach()
if("${page}" MATCHES "\\)page\"")
  message(FATAL_ERROR "embed.cmake: the page has the end mark of the string it is put in")
endif()
file(WRITE "${OUT}" "// Made by embed.cmake.
#include \"analysis/report/page.h\"

namespace gradwire::analysis {

const std::string_view kPage = R\"page(${page})page\";

}  // namespace gradwire::analysis
")
