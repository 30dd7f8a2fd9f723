-- Runs tests and keeps their report: each test is then a row of inspect.tests, and in `moonyard job`.
--   moonyard run examples/junit.lua

-- A test runner in few lines; pytest, Maven, Go and most others write such files by an option.
local TESTS = [[
import unittest, xml.etree.ElementTree as xml

class Arithmetic(unittest.TestCase):
    def test_adds(self): self.assertEqual(1 + 1, 2)
    def test_divides(self): self.assertAlmostEqual(1 / 3, 0.333, places=3)
    @unittest.skip("nobody needs it")
    def test_roots(self): pass

result = unittest.TestResult()
tests = list(unittest.defaultTestLoader.loadTestsFromTestCase(Arithmetic))
suite = xml.Element("testsuite", name="arithmetic")
for test in tests:
    test.run(result)
    case = xml.SubElement(suite, "testcase", name=test._testMethodName, classname="Arithmetic")
    for kind, found in (("failure", result.failures), ("error", result.errors), ("skipped", result.skipped)):
        for which, text in found:
            if which is test: xml.SubElement(case, kind, message=text)
xml.ElementTree(suite).write("report.xml")
]]

return {
  name = "junit",
  stages = {
    {
      name = "test",
      container = "docker.io/library/python:3.11",
      script = function()
        process.run({ command = "python3", args = { "-" }, stdin = TESTS })
        local report = artifact.test_report("report.xml")
        log.info("tests", { passed = report.passed, failed = report.failed, skipped = report.skipped })
        artifact.save("report.xml", { retention = "14d" })
        assert(report.ok, "not all tests passed")
      end,
    },
  },
}
