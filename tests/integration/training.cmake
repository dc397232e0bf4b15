if(TARGET gradwire::training)
  gradwire_python_test(training_test TIMEOUT 120)
endif()
