if(TARGET gradwire::training)
  gradwire_python_test(training_test TIMEOUT 120)
  gradwire_python_test(ps_training_test TIMEOUT 120)
endif()
